package device

import (
	"errors"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"sotto/media"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestNoServer(t *testing.T) {
	for _, where := range []string{"", "unix:" + filepath.Join(t.TempDir(), "none"), "nonsense", "tcp:127.0.0.1:1"} {
		t.Setenv("PULSE_SERVER", where)
		t.Setenv("XDG_RUNTIME_DIR", t.TempDir())
		if _, err := OpenMicrophone(); !errors.Is(err, ErrNoServer) {
			t.Errorf("server %q: %v", where, err)
		}
		if _, err := OpenSpeaker(); !errors.Is(err, ErrNoServer) {
			t.Errorf("server %q: %v", where, err)
		}
	}
}

// startServer runs a real PulseAudio whose speaker plays into nothing and whose microphone hears what the speaker plays.
func startServer(t *testing.T) *exec.Cmd {
	t.Helper()
	program, err := exec.LookPath("pulseaudio")
	if err != nil {
		t.Skip("pulseaudio is not installed")
	}
	dir := t.TempDir()
	socket := filepath.Join(dir, "native")
	cmd := exec.Command(program, "-n", "--daemonize=no", "--exit-idle-time=-1", "--use-pid-file=no", "--log-level=error",
		"-L", "module-null-sink sink_name=nowhere", "-L", "module-native-protocol-unix auth-anonymous=1 socket="+socket)
	cmd.Env = append(os.Environ(), "HOME="+dir, "XDG_RUNTIME_DIR="+dir, "XDG_CONFIG_HOME="+dir, "DBUS_SESSION_BUS_ADDRESS=unix:path="+dir)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	t.Setenv("PULSE_SERVER", "unix:"+socket)
	t.Setenv("PULSE_COOKIE", filepath.Join(dir, "no-cookie"))
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if s, err := OpenSpeaker(); err == nil {
			s.Close()
			return cmd
		}
		if time.Now().After(deadline) {
			t.Fatal("pulseaudio does not answer")
		}
	}
}

// share is how much of the sound is a tone of so many Hz (Goertzel).
func share(pcm []int16, hz float64) float64 {
	var re, im, all float64
	for i, s := range pcm {
		x, phase := float64(s), 2*math.Pi*hz*float64(i)/media.SampleRate
		re, im, all = re+x*math.Cos(phase), im+x*math.Sin(phase), all+x*x
	}
	return 2 * (re*re + im*im) / float64(len(pcm)) / (all + 1)
}

// TestSpeakerToMicrophone plays a tone through a real sound server and records it again.
func TestSpeakerToMicrophone(t *testing.T) {
	startServer(t)
	speaker, err := OpenSpeaker()
	if err != nil {
		t.Fatal(err)
	}
	defer speaker.Close()
	microphone, err := OpenMicrophone()
	if err != nil {
		t.Fatal(err)
	}
	var hz atomic.Int32
	hz.Store(1000)
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() { // the call: a frame every 20 ms
		defer close(stopped)
		tick := time.NewTicker(media.FrameLength)
		defer tick.Stop()
		frame, phase := make([]int16, media.FrameSamples), 0.0
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
			}
			for i := range frame {
				frame[i] = int16(8000 * math.Sin(phase))
				phase += 2 * math.Pi * float64(hz.Load()) / media.SampleRate
			}
			if speaker.WriteFrame(frame) != nil {
				return
			}
		}
	}()
	defer func() { close(stop); <-stopped }()

	hears := func(hz float64) time.Duration {
		t.Helper()
		start, frame, best := time.Now(), make([]int16, media.FrameSamples), 0.0
		for time.Since(start) < 15*time.Second {
			if err := microphone.ReadFrame(frame); err != nil {
				t.Fatal(err)
			}
			if best = max(best, share(frame, hz)); best > 0.99 {
				return time.Since(start)
			}
		}
		t.Fatalf("at best %.0f %% of what the microphone hears is the tone that the speaker plays", 100*best)
		return 0
	}
	first := hears(1000)
	hz.Store(2000)
	// The device that plays into nothing takes its time to begin, but not to go on.
	t.Logf("heard after %v, a change after %v", first, hears(2000))

	waiting := make(chan error)
	go func() {
		for {
			if err := microphone.ReadFrame(make([]int16, media.FrameSamples)); err != nil {
				waiting <- err
				return
			}
		}
	}()
	if err := microphone.Close(); err != nil {
		t.Error(err)
	}
	if err := <-waiting; err != io.EOF {
		t.Errorf("after Close: %v", err)
	}
}

// TestServerGoes: both ends say so, and neither waits for ever.
func TestServerGoes(t *testing.T) {
	cmd := startServer(t)
	speaker, err := OpenSpeaker()
	if err != nil {
		t.Fatal(err)
	}
	defer speaker.Close()
	microphone, err := OpenMicrophone()
	if err != nil {
		t.Fatal(err)
	}
	defer microphone.Close()
	cmd.Process.Kill()
	frame := make([]int16, media.FrameSamples)
	for err = nil; err == nil; {
		err = microphone.ReadFrame(frame)
	}
	if !errors.Is(err, errGone) {
		t.Error(err)
	}
	<-speaker.server.done
	if err := speaker.WriteFrame(frame); !errors.Is(err, errGone) {
		t.Error(err)
	}
}
