package qrcode

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"flag"
	"hash/crc32"
	"image"
	"image/color"
	"image/gif"
	"image/jpeg"
	"image/png"
	"math"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/makiuchi-d/gozxing"
	"golang.org/x/image/draw"
	"golang.org/x/image/math/f64"
)

var long = flag.Bool("long", false, "run long forms of tests: 3,000 codes drawn and read, large photos")

// photo is the code as a camera sees it: turned by degrees, `side` pixels wide in a picture of the given size, dimmed towards one corner,
// with noise.
func photo(t *testing.T, size image.Point, side, degrees, noise float64) image.Image {
	t.Helper()
	code := drawn(t, encode(t, content()))
	picture := image.NewRGBA(image.Rectangle{Max: size})
	draw.Draw(picture, picture.Rect, image.NewUniform(color.RGBA{0xb0, 0x90, 0x70, 0xff}), image.Point{}, draw.Src)
	sin, cos := math.Sincos(degrees * math.Pi / 180)
	scale, half := side/float64(code.Bounds().Dx()), float64(code.Bounds().Dx())/2
	x, y := float64(size.X)*0.45, float64(size.Y)*0.55
	draw.BiLinear.Transform(picture, f64.Aff3{
		scale * cos, -scale * sin, x - scale*(cos-sin)*half,
		scale * sin, scale * cos, y - scale*(sin+cos)*half,
	}, code, code.Bounds(), draw.Src, nil)

	random := rand.New(rand.NewPCG(1, 2))
	for i := range picture.Pix {
		if i%4 == 3 {
			continue // opaque
		}
		light := 1 - 0.5*float64(i)/float64(len(picture.Pix))
		picture.Pix[i] = byte(max(0, min(255, 30+0.8*float64(picture.Pix[i])*light+noise*random.NormFloat64())))
	}
	return picture
}

func TestPhotos(t *testing.T) {
	for _, test := range []struct {
		name           string
		size           image.Point
		side           float64
		degrees, noise float64
	}{
		{"straight", image.Pt(640, 480), 300, 0, 0},
		{"turned a little", image.Pt(640, 480), 300, 7, 5},
		{"turned by 45", image.Pt(800, 800), 400, 45, 5},
		{"upside down", image.Pt(640, 480), 300, 183, 5},
		{"noisy", image.Pt(800, 600), 400, 11, 25},
		{"small", image.Pt(400, 300), 110, 0, 3},
		{"large", image.Pt(1200, 1000), 700, 31, 20},
		{"small in a large one", image.Pt(1600, 1200), 170, 20, 5},
	} {
		if test.size.X > 1000 && !*long {
			continue // slow under the race detector
		}
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			picture := photo(t, test.size, test.side, test.degrees, test.noise)
			var data bytes.Buffer
			if err := jpeg.Encode(&data, picture, &jpeg.Options{Quality: 70}); err != nil {
				t.Fatal(err)
			}
			if got, err := read(t.Context(), data.Bytes()); err != nil || !bytes.Equal(got, content()) {
				t.Error(err)
			}
		})
	}
}

// TestRefused: what is no picture with a code, or one that is made to be expensive, is refused with a sentence, and before the work.
func TestRefused(t *testing.T) {
	bytesOf := func(b []byte) func(*os.File) error {
		return func(f *os.File) error { _, err := f.Write(b); return err }
	}
	gray := image.NewGray(image.Rect(0, 0, 300, 300))
	for _, test := range []struct {
		name  string
		write func(*os.File) error
		says  string
	}{
		{"empty", bytesOf(nil), "neither PNG nor JPEG"},
		{"text", bytesOf([]byte("hello")), "neither PNG nor JPEG"},
		{"gif", func(f *os.File) error { return gif.Encode(f, gray, nil) }, "neither PNG nor JPEG"},
		{"no code in it", func(f *os.File) error { return png.Encode(f, gray) }, "no readable QR code"},
		{"cut off", bytesOf(pngHeader(100, 100)), "damaged"},
		{"many pixels", bytesOf(pngHeader(5001, 5000)), "5001 x 5000 pixels"},
		{"more pixels than can be counted", bytesOf(pngHeader(math.MaxInt32, math.MaxInt32)), "damaged"},
		{"a wide one", bytesOf(pngHeader(25_000_001, 1)), "25000001 x 1 pixels"},
		{"a large JPEG", bytesOf(jpegHeader(65535, 65535)), "65535 x 65535 pixels"},
		{"a large file", func(f *os.File) error { return f.Truncate(maxFile + 1) }, "more than 16 MiB"},
	} {
		t.Run(test.name, func(t *testing.T) {
			name := file(t, "picture", test.write)
			if _, err := ReadFile(t.Context(), name); err == nil || !strings.Contains(err.Error(), test.says) {
				t.Error(err)
			}
		})
	}
	if _, err := ReadFile(t.Context(), t.TempDir()); err == nil || !strings.Contains(err.Error(), "not a picture") {
		t.Error(err)
	}
	if _, err := ReadFile(t.Context(), t.TempDir()+"/missing.png"); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

func TestRefusalsAllocateLittle(t *testing.T) {
	name := file(t, "bomb.png", func(f *os.File) error { _, err := f.Write(pngHeader(60000, 60000)); return err })
	got := testing.AllocsPerRun(1, func() { ReadFile(t.Context(), name) })
	if got > 100 {
		t.Errorf("%v allocations", got)
	}
}

// TestManyCorners: with the cube of 15,000 corners to choose from, a search would take hours.
func TestManyCorners(t *testing.T) {
	picture := image.NewGray(image.Rect(0, 0, 1100, 1100))
	draw.Draw(picture, picture.Rect, image.White, image.Point{}, draw.Src)
	for y := 0; y+7 < 1100; y += 9 {
		for x := 0; x+7 < 1100; x += 9 {
			for i := range 49 {
				ring := max(abs(i%7-3), abs(i/7-3))
				if ring != 2 {
					picture.SetGray(x+i%7, y+i/7, color.Gray{})
				}
			}
		}
	}
	var data bytes.Buffer
	if err := png.Encode(&data, picture); err != nil {
		t.Fatal(err)
	}
	if _, err := read(t.Context(), data.Bytes()); !errors.Is(err, errNoCode) {
		t.Error(err)
	}
}

func abs(n int) int { return max(n, -n) }

// TestEndlessScans: a progressive JPEG that goes over its 12 million pixels again and again, in 16
// MiB, ends when the user or the time says so.
func TestEndlessScans(t *testing.T) {
	scans := jpegHeader(3504, 3504)
	scans = append(scans, 0xff, 0xc4, 0, 20, 0x10, 1) // DHT: AC table 0, one code, of one bit: 0
	scans = append(scans, make([]byte, 15)...)
	scans = append(scans, 0xe0) // it begins a run of 2^14 blocks without coefficients, and as many more as the next 14 bits say
	run := "0" + strings.Repeat("10", 7)
	bits := strings.Repeat(run, 438*438/(1<<14+0b10101010101010)+1)
	scan := []byte{0xff, 0xda, 0, 8, 1, 1, 0, 1, 63, 0} // SOS: the AC coefficients of component 1
	for len(bits) > 0 {
		b, _ := strconv.ParseUint((bits + "1111111")[:8], 2, 8)
		scan, bits = append(scan, byte(b)), bits[min(8, len(bits)):]
	}
	for len(scans)+len(scan) < maxFile {
		scans = append(scans, scan...)
	}
	name := file(t, "scans.jpg", func(f *os.File) error { _, err := f.Write(scans); return err })
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := ReadFile(ctx, name); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}

// misleading is a safety number's code that has a corner among its data, and makes the library miss a real one.
const misleading = "e3d9c190b8529a7917ff6367cf9c3065ee7da59ec58b622d7736f2413722414c0315f9a8be4186acc6d35ccde71abe7070dd0db9161714a0d17a430efb283bd8a99d33fa677fad4ac3f2"

// TestFalseCorners: whatever the data look like, a clean picture is read.
func TestFalseCorners(t *testing.T) {
	contents := make([][]byte, 10)
	if *long {
		contents = make([][]byte, 3000)
	}
	random := rand.New(rand.NewPCG(3, 4))
	for i := range contents {
		contents[i] = make([]byte, 74)
		for j := range contents[i] {
			contents[i][j] = byte(random.Uint32())
		}
	}
	contents[0], _ = hex.DecodeString(misleading)
	for _, want := range contents {
		var picture bytes.Buffer
		if err := encode(t, want).PNG(&picture); err != nil {
			t.Fatal(err)
		}
		if got, err := read(t.Context(), picture.Bytes()); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%x: %x, %v", want, got, err)
		}
	}
}

func pngHeader(width, height uint32) []byte {
	chunk := binary.BigEndian.AppendUint32([]byte("IHDR"), width)
	chunk = binary.BigEndian.AppendUint32(chunk, height)
	chunk = append(chunk, 8, 0, 0, 0, 0)
	b := append([]byte("\x89PNG\r\n\x1a\n\x00\x00\x00\x0d"), chunk...)
	return binary.BigEndian.AppendUint32(b, crc32.ChecksumIEEE(chunk))
}

func jpegHeader(width, height uint16) []byte {
	b := []byte("\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00") // SOI, APP0
	b = append(b, 0xff, 0xc2, 0, 11, 8)                                                 // SOF2: progressive, 8 bits
	b = binary.BigEndian.AppendUint16(b, height)
	b = binary.BigEndian.AppendUint16(b, width)
	return append(b, 1, 1, 0x11, 0) // one component
}

// FuzzFind searches pictures of 123 by 123 pixels.
func FuzzFind(f *testing.F) {
	const side = 123
	for _, seed := range [][]byte{content(), []byte("0123456789"), {0}} {
		f.Add(shrink(drawn(f, encode(f, seed)), side).Pix)
	}
	f.Fuzz(func(t *testing.T, pix []byte) {
		picture := image.NewGray(image.Rect(0, 0, side, side))
		copy(picture.Pix, pix)
		find(gozxing.NewGlobalHistgramBinarizer(gozxing.NewLuminanceSourceFromImage(picture)))
	})
}
