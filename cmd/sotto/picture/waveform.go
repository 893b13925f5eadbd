package picture

import (
	"fmt"
	"image"
	"image/color"
	"image/draw"
	"image/png"
	"io"
	"math"

	"golang.org/x/image/font"
	"golang.org/x/image/font/gofont/gomedium"
	"golang.org/x/image/font/gofont/goregular"
	"golang.org/x/image/font/opentype"
	"golang.org/x/image/math/fixed"
)

// A Wave is one line of the drawing.
type Wave struct {
	Caption string // such as "alice spoke"
	Note    string // small, at the right
	PCM     []int16
	Rate    int // samples a second
}

const (
	width     = 1200
	margin    = 48
	titleTall = 76
	waveTall  = 170
	axisTall  = 56
)

var (
	paper  = color.RGBA{0xfb, 0xfa, 0xf7, 0xff}
	ink    = color.RGBA{0x26, 0x2b, 0x33, 0xff}
	faint  = color.RGBA{0x8a, 0x90, 0x99, 0xff}
	grid   = color.RGBA{0xe6, 0xe3, 0xdb, 0xff}
	colors = []color.RGBA{{0x5b, 0x2a, 0x86, 0xff}, {0x1f, 0x7a, 0x8c, 0xff}, {0xd0, 0x6b, 0x43, 0xff}, {0x2f, 0x8f, 0x5b, 0xff}}
)

// Waveforms writes the waves below one another over one axis of time.
func Waveforms(w io.Writer, title string, waves []Wave) error {
	longest := 0.0
	for _, wave := range waves {
		if wave.Rate <= 0 {
			return fmt.Errorf("the sample rate of %q is not known", wave.Caption)
		}
		longest = max(longest, float64(len(wave.PCM))/float64(wave.Rate))
	}
	bottom := titleTall + waveTall*len(waves)
	c := canvas{image.NewRGBA(image.Rect(0, 0, width, bottom+axisTall))}
	draw.Draw(c, c.Bounds(), image.NewUniform(paper), image.Point{}, draw.Src)

	perSecond := float64(width-2*margin) / max(longest, 1)
	for s, step := 0.0, axisStep(longest); s <= longest+step/1000; s += step {
		x := margin + int(s*perSecond)
		c.fill(x, titleTall, 1, bottom-titleTall, grid)
		c.text(x, bottom+24, fmt.Sprintf("%g s", s), small, faint, center)
	}
	c.text(margin, 46, title, large, ink, left)
	for i, wave := range waves {
		top := titleTall + i*waveTall
		c.text(margin, top+22, wave.Caption, medium, colors[i%len(colors)], left)
		c.text(width-margin, top+22, wave.Note, small, faint, right)
		c.wave(wave, top+waveTall/2+12, waveTall/2-28, perSecond, colors[i%len(colors)])
	}
	return png.Encode(w, c)
}

// axisStep is the distance of the marks: at most 14 of them.
func axisStep(seconds float64) float64 {
	for step := 1.0; ; step *= 10 {
		for _, factor := range []float64{1, 2, 5} {
			if seconds <= 14*step*factor {
				return step * factor
			}
		}
	}
}

type canvas struct{ *image.RGBA }

func (c canvas) fill(x, y, w, h int, col color.Color) {
	draw.Draw(c, image.Rect(x, y, x+w, y+h), image.NewUniform(col), image.Point{}, draw.Over)
}

// wave draws, for each column, the range of the samples lightly and their root mean square fully, mirrored about the middle.
func (c canvas) wave(w Wave, middle, tall int, perSecond float64, col color.RGBA) {
	peak := 1.0
	for _, s := range w.PCM {
		peak = max(peak, math.Abs(float64(s)))
	}
	light := color.NRGBA{col.R, col.G, col.B, 0x60}
	perColumn := float64(w.Rate) / perSecond
	for x := 0; ; x++ {
		from, to := int(float64(x)*perColumn), int(float64(x+1)*perColumn)
		if to > len(w.PCM) || to == from {
			break
		}
		var high, square float64
		for _, s := range w.PCM[from:to] {
			v := math.Abs(float64(s)) / peak
			high, square = max(high, v), square+v*v
		}
		mean := math.Sqrt(square / float64(to-from))
		outer, inner := int(high*float64(tall)), int(mean*float64(tall))
		c.fill(margin+x, middle-outer, 1, 2*outer+1, light)
		c.fill(margin+x, middle-inner, 1, 2*inner+1, col)
	}
}

var (
	large  = face(gomedium.TTF, 26)
	medium = face(gomedium.TTF, 17)
	small  = face(goregular.TTF, 14)
)

func face(ttf []byte, size float64) func() font.Face {
	return func() font.Face { // made when drawing: most runs of the program draw nothing
		f, err := opentype.Parse(ttf)
		if err != nil {
			panic(err) // the fonts are part of the program
		}
		made, err := opentype.NewFace(f, &opentype.FaceOptions{Size: size, DPI: 72, Hinting: font.HintingFull})
		if err != nil {
			panic(err)
		}
		return made
	}
}

type alignment int

const (
	left alignment = iota
	center
	right
)

// text writes with its base line at y.
func (c canvas) text(x, y int, s string, face func() font.Face, col color.Color, align alignment) {
	d := font.Drawer{Dst: c, Src: image.NewUniform(col), Face: face(), Dot: fixed.P(x, y)}
	d.Dot.X -= d.MeasureString(s) * fixed.Int26_6(align) / 2
	d.DrawString(s)
}
