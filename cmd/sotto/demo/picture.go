package demo

import (
	"fmt"
	"image"
	"image/color"
	"image/draw"
	"image/png"
	"os"

	"golang.org/x/image/font"
	"golang.org/x/image/font/basicfont"
	"golang.org/x/image/math/fixed"
)

// A track is one line of the picture of waveforms.
type track struct {
	label string
	pcm   []int16 // 48 kHz
	heard bool    // drawn in the colour of what arrived
}

var (
	paper  = color.RGBA{0xfa, 0xf9, 0xf6, 0xff}
	ink    = color.RGBA{0x22, 0x26, 0x2e, 0xff}
	faint  = color.RGBA{0xdd, 0xda, 0xd2, 0xff}
	spoken = color.RGBA{0x2f, 0x6f, 0x9f, 0xff}
	heard  = color.RGBA{0x2e, 0x8b, 0x57, 0xff}
)

const (
	pictureWidth = 1200
	trackHeight  = 120
	margin       = 24
)

// waveforms draws the tracks below each other on one time axis, so that the eye can compare them.
func waveforms(tracks []track, sampleRate int) image.Image {
	longest := sampleRate
	for _, t := range tracks {
		longest = max(longest, len(t.pcm))
	}
	img := image.NewRGBA(image.Rect(0, 0, pictureWidth, 2*margin+len(tracks)*trackHeight))
	draw.Draw(img, img.Bounds(), image.NewUniform(paper), image.Point{}, draw.Src)
	bottom := margin + len(tracks)*trackHeight
	step := max(1, longest/sampleRate/20)
	for second := 0; second*sampleRate <= longest; second += step {
		x := margin + second*sampleRate*(pictureWidth-2*margin)/longest
		vertical(img, x, margin, bottom, faint)
		write(img, x-6, bottom+15, fmt.Sprintf("%d s", second))
	}
	for i, t := range tracks {
		middle := margin + i*trackHeight + trackHeight/2 + 6
		shade := spoken
		if t.heard {
			shade = heard
		}
		for x := margin; x < pictureWidth-margin; x++ {
			from := (x - margin) * longest / (pictureWidth - 2*margin)
			to := (x - margin + 1) * longest / (pictureWidth - 2*margin)
			if from >= len(t.pcm) {
				break
			}
			low, high := t.pcm[from], t.pcm[from]
			for _, sample := range t.pcm[from:max(from+1, min(to, len(t.pcm)))] {
				low, high = min(low, sample), max(high, sample)
			}
			scale := trackHeight/2 - 16
			vertical(img, x, middle-int(high)*scale/32768, middle-int(low)*scale/32768, shade)
		}
		write(img, margin+4, margin+i*trackHeight+12, t.label)
	}
	return img
}

func vertical(img draw.Image, x, top, bottom int, c color.Color) {
	for y := top; y <= bottom; y++ {
		img.Set(x, y, c)
	}
}

func write(img draw.Image, x, y int, text string) {
	d := font.Drawer{Dst: img, Src: image.NewUniform(ink), Face: basicfont.Face7x13, Dot: fixed.P(x, y)}
	d.DrawString(text)
}

func writePNG(file string, img image.Image) error {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	if err := png.Encode(f, img); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}
