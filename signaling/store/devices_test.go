package store

import (
	"fmt"
	mrand "math/rand/v2"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// TestCrashWhileDevicesChange drops what was not synced, at any moment while a device is added, written to and removed, again and again: what
// is there afterwards are the device, its keys and its mailbox with the list that has it, or none of them with one that has not; and no list
// is older than one that was acknowledged or read.
func TestCrashWhileDevicesChange(t *testing.T) {
	for round := range 8 {
		t.Run(fmt.Sprint(round), func(t *testing.T) { crashWhileDevicesChange(t, uint64(round)) })
	}
}

func crashWhileDevicesChange(t *testing.T, round uint64) {
	rng := mrand.New(mrand.NewPCG(round, 1))
	disk := vfs.NewCrashableMem()
	p, err := openPebble("data", disk, quiet)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now().Truncate(time.Millisecond)
	first, second := Address{UUID{1}, 1}, Address{UUID{1}, 2}
	if err := p.CreateAccount(Account{first.Account, "alice"}, Device{Address: first}, Keys{}, nil, now); err != nil {
		t.Fatal(err)
	}
	keys := Keys{Signed: []byte("signed"), LastResort: []byte("last"), OneTime: []OneTimeKey{{ID: 1, Data: []byte("key")}}}
	listAt := func(epoch int) DeviceList {
		if epoch == 0 {
			return DeviceList{}
		}
		return DeviceList{List: fmt.Append(nil, epoch), Signature: []byte("signature")}
	}
	epochOf := func(p *Pebble) (epoch int) {
		l, err := p.DeviceList(first.Account)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Sscan(string(l.List), &epoch)
		return epoch
	}

	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for epoch := 0; ; epoch++ {
			select {
			case <-stop:
				return
			default:
			}
			var err error
			if held, next := listAt(epoch), listAt(epoch+1); epoch%2 == 0 { // a list with an odd epoch has device 2
				err = p.AddDevice(Device{Address: second, RegistrationID: uint32(epoch)}, keys, held, next)
				e := Envelope{To: second, From: UUID{2}, ID: [16]byte{byte(epoch), byte(epoch >> 8)}, Body: []byte("body"), Accepted: now, Expires: now.Add(time.Hour)}
				if wait, putErr := p.Put(e, wide); putErr == nil {
					putErr = wait()
					if putErr != nil {
						err = putErr
					}
				}
			} else {
				err = p.RemoveDevice(second, held, next)
			}
			if err != nil {
				t.Error(err)
				return
			}
		}
	}()
	time.Sleep(time.Duration(1+rng.IntN(20)) * time.Millisecond) // the moment is arbitrary, the claim holds at any
	read := epochOf(p)
	after := disk.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: []int{0, 0, 50, 90}[round%4], RNG: rng})
	close(stop)
	<-done
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}

	if p, err = openPebble("data", after, quiet); err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	epoch := epochOf(p)
	if epoch < read {
		t.Errorf("the list was at epoch %d before the crash and is at %d after", read, epoch)
	}
	devices, err := p.Devices(first.Account)
	if err != nil || len(devices) != 1+epoch%2 {
		t.Fatalf("%d devices at epoch %d, %v", len(devices), epoch, err)
	}
	mailbox, _, err := p.Mailbox(second, 0, 10, now)
	if err != nil || len(mailbox) > epoch%2 {
		t.Errorf("%d envelopes at epoch %d, %v", len(mailbox), epoch, err)
	}
	taken, err := p.TakeKeys(second)
	if epoch%2 == 1 && (err != nil || string(taken.OneTime) != "key" || int(taken.Device.RegistrationID) != epoch-1) {
		t.Errorf("device 2 has %v, %v", taken, err)
	}
	if epoch%2 == 0 && err != ErrNotFound {
		t.Errorf("device 2, which is not there, has %v, %v", taken, err)
	}
}
