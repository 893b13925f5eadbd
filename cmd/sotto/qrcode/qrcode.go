// Package qrcode draws bytes as a QR code, on a terminal or as a PNG, and finds one in a picture.
//
// The bytes are in one segment of byte mode, as they are (ISO/IEC 18004, section 7.4.5, with neither ECI nor a character set applied):
// that is how Signal's apps show and scan safety numbers.
package qrcode

import (
	"fmt"
	"image"
	"image/color"
	"image/png"
	"io"
	"strings"

	"github.com/boombuler/barcode/qr"
)

const (
	quiet      = 4 // modules of light around the code (section 9.1)
	moduleSize = 10
)

// A Symbol is a code ready to be drawn.
type Symbol struct {
	modules image.Image // a pixel is a module
}

// Encode lays out the code, with the lowest level of error correction: a safety number then fits on a terminal of 24 lines, and what is
// on a screen does not get scratched.
func Encode(content []byte) (*Symbol, error) {
	modules, err := qr.Encode(string(content), qr.L, qr.Unicode) // which stands for byte mode
	if err != nil {
		return nil, fmt.Errorf("%d bytes do not fit into a QR code", len(content))
	}
	return &Symbol{modules}, nil
}

// Size is the modules, and on a terminal the columns, of one side, with the quiet zone.
func (s *Symbol) Size() int { return s.modules.Bounds().Dx() + 2*quiet }

// dark tells what to draw at a place within Size. Everything outside of the code is light.
func (s *Symbol) dark(x, y int) bool {
	at := image.Pt(x-quiet, y-quiet)
	return at.In(s.modules.Bounds()) && color.GrayModel.Convert(s.modules.At(at.X, at.Y)).(color.Gray).Y < 0x80
}

// PNG writes a picture in black and white.
func (s *Symbol) PNG(w io.Writer) error {
	side := s.Size() * moduleSize
	picture := image.NewPaletted(image.Rect(0, 0, side, side), color.Palette{color.White, color.Black})
	for y := range side {
		for x := range side {
			if s.dark(x/moduleSize, y/moduleSize) {
				picture.SetColorIndex(x, y, 1)
			}
		}
	}
	return png.Encode(w, picture)
}

const (
	blackOnWhite = "\x1b[38;5;16;48;5;231m" // of the 256 colours: those that a terminal's theme does not change
	reset        = "\x1b[0m"
)

// Text draws with half blocks, two modules in a character. With colour it is black on white on any terminal. Without, the light modules
// are drawn: right where letters are lighter than their background.
func (s *Symbol) Text(colour bool) string {
	glyphs := [2][2]string{{"█", "▀"}, {"▄", " "}} // by whether the upper and the lower module are dark
	if colour {
		glyphs = [2][2]string{{" ", "▄"}, {"▀", "█"}}
	}
	index := func(dark bool) int {
		if dark {
			return 1
		}
		return 0
	}
	var b strings.Builder
	for y := 0; y < s.Size(); y += 2 {
		if colour {
			b.WriteString(blackOnWhite)
		}
		for x := range s.Size() {
			b.WriteString(glyphs[index(s.dark(x, y))][index(s.dark(x, y+1))])
		}
		if colour {
			b.WriteString(reset)
		}
		b.WriteByte('\n')
	}
	return b.String()
}
