package qrcode

import (
	"bytes"
	"image"
	"image/color"
	"image/png"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/makiuchi-d/gozxing"
	"github.com/makiuchi-d/gozxing/qrcode"
)

// content is as long as a safety number's, and has bytes that are no text in any character set.
func content() []byte {
	b := make([]byte, 74)
	for i := range b {
		b[i] = byte(0x80 + 37*i)
	}
	return b
}

func encode(t testing.TB, content []byte) *Symbol {
	t.Helper()
	s, err := Encode(content)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func drawn(t testing.TB, s *Symbol) image.Image {
	t.Helper()
	var b bytes.Buffer
	if err := s.PNG(&b); err != nil {
		t.Fatal(err)
	}
	picture, err := png.Decode(&b)
	if err != nil {
		t.Fatal(err)
	}
	return picture
}

// file writes what a test wants to read.
func file(t *testing.T, name string, write func(*os.File) error) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	f, err := os.Create(path)
	if err == nil {
		err = write(f)
		f.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func TestPNG(t *testing.T) {
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	for _, want := range [][]byte{content(), all, []byte("0123456789"), {0}} {
		name := file(t, "code.png", func(f *os.File) error { return encode(t, want).PNG(f) })
		if got, err := ReadFile(t.Context(), name); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%x became %x, %v", want, got, err)
		}
	}
	if _, err := Encode(make([]byte, 3000)); err == nil {
		t.Error("3000 bytes in a QR code")
	}
}

// TestByteMode: one segment in byte mode, and no character set is named.
func TestByteMode(t *testing.T) {
	for _, want := range [][]byte{content(), []byte("0123456789")} {
		bitmap, err := gozxing.NewBinaryBitmapFromImage(drawn(t, encode(t, want)))
		if err != nil {
			t.Fatal(err)
		}
		result, err := qrcode.NewQRCodeReader().Decode(bitmap, nil)
		if err != nil {
			t.Fatal(err)
		}
		metadata := result.GetResultMetadata()
		segments, _ := metadata[gozxing.ResultMetadataType_BYTE_SEGMENTS].([][]byte)
		if len(segments) != 1 || !bytes.Equal(segments[0], want) {
			t.Errorf("segments %x", segments)
		}
		if id := metadata[gozxing.ResultMetadataType_SYMBOLOGY_IDENTIFIER]; id != "]Q1" { // ISO/IEC 18004, annex F: no ECI, no FNC1
			t.Errorf("symbology identifier %v", id)
		}
	}
}

// TestQuietZone: four light modules around the code, which begins with the dark corner of a finder pattern. A safety number's code leaves
// room for the digits and a prompt on a terminal of 80 by 24.
func TestQuietZone(t *testing.T) {
	s := encode(t, content())
	if s.Size() != 41 {
		t.Errorf("%d modules a side", s.Size())
	}
	for i := range s.Size() {
		for j := range quiet {
			for _, p := range []image.Point{{i, j}, {j, i}, {i, s.Size() - 1 - j}, {s.Size() - 1 - j, i}} {
				if s.dark(p.X, p.Y) {
					t.Fatalf("dark at %v", p)
				}
			}
		}
	}
	if !s.dark(quiet, quiet) || !s.dark(s.Size()-1-quiet, quiet) || !s.dark(quiet, s.Size()-1-quiet) {
		t.Error("no finder patterns in the corners")
	}
}

// TestTerminal draws on terminals, and reads what their users see.
func TestTerminal(t *testing.T) {
	s := encode(t, content())
	light, dark := color.Gray{0xd0}, color.Gray{0x18}
	for _, test := range []struct {
		name          string
		colour        bool
		letters, back color.Gray
	}{
		{"in colour, dark terminal", true, light, dark},
		{"in colour, light terminal", true, dark, light},
		{"dark terminal", false, light, dark},
		{"light terminal, where the code is inverted", false, dark, light},
	} {
		screen := show(t, s.Text(test.colour), test.letters, test.back)
		name := file(t, "screen.png", func(f *os.File) error { return png.Encode(f, screen) })
		if got, err := ReadFile(t.Context(), name); err != nil || !bytes.Equal(got, content()) {
			t.Errorf("%s: %v", test.name, err)
		}
	}
	// Not only our reader, which inverts what it cannot read: dark on light, as the standard wants it.
	for _, screen := range []image.Image{show(t, s.Text(true), light, dark), show(t, s.Text(false), light, dark)} {
		bitmap, err := gozxing.NewBinaryBitmapFromImage(screen)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := qrcode.NewQRCodeReader().Decode(bitmap, nil); err != nil {
			t.Error("a plain reader:", err)
		}
	}
}

// show is a terminal of 80 columns that knows what Text uses.
func show(t *testing.T, text string, letters, back color.Gray) image.Image {
	t.Helper()
	const width, height = 6, 12
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	screen := image.NewGray(image.Rect(0, 0, 80*width, (len(lines)+2)*height))
	fill := func(r image.Rectangle, c color.Gray) {
		for y := r.Min.Y; y < r.Max.Y; y++ {
			for x := r.Min.X; x < r.Max.X; x++ {
				screen.SetGray(x, y, c)
			}
		}
	}
	fill(screen.Rect, back)
	for row, line := range lines {
		fg, bg := letters, back
		if rest, ok := strings.CutPrefix(line, "\x1b[38;5;16;48;5;231m"); ok {
			fg, bg = color.Gray{0}, color.Gray{0xff}
			if line, ok = strings.CutSuffix(rest, "\x1b[0m"); !ok {
				t.Fatal("the terminal stays black on white")
			}
		}
		for column, glyph := range []rune(line) {
			upper, lower := bg, bg
			switch glyph {
			case '█':
				upper, lower = fg, fg
			case '▀':
				upper = fg
			case '▄':
				lower = fg
			case ' ':
			default:
				t.Fatalf("%q is no half block", glyph)
			}
			at := image.Pt(column*width, (row+1)*height)
			fill(image.Rect(0, 0, width, height/2).Add(at), upper)
			fill(image.Rect(0, height/2, width, height).Add(at), lower)
		}
	}
	return screen
}
