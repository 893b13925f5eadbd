package qrcode

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/draw"
	"image/jpeg"
	"image/png"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/makiuchi-d/gozxing"
	"github.com/makiuchi-d/gozxing/qrcode/decoder"
	"github.com/makiuchi-d/gozxing/qrcode/detector"
)

// Reading a picture that somebody sent:
//
//  1. The file is a regular one, and not too large.
//  2. Its header says PNG or JPEG, and how many pixels; too many are refused before any is decoded.
//  3. It is decoded. JPEG can be told to decode the same pixels over and over: reading ends with the time it is given.
//  4. It is made gray and searched in several sizes, dark on light and light on dark, until a code is found. A search is given up where
//     too many places look like the corner of a code: choosing among them takes the cube of their number.
const (
	maxFile    = 16 << 20
	maxPixels  = 25_000_000  // a telephone's photo
	maxDecoded = 250_000_000 // bytes
	maxCorners = 600
	maxTried   = 10 // of them, in every combination
	timeout    = 20 * time.Second
)

// sides are the longest sides of what is searched: in a smaller picture the search overlooks noise, in a larger one it sees a small code.
var sides = []int{800, 1600, 3200}

var (
	errForm    = errors.New("it is neither PNG nor JPEG: make a screenshot or convert it")
	errDamaged = errors.New("the picture is damaged: have it sent again")
	errNoCode  = errors.New("there is no readable QR code in it: take the picture straight on, sharp, with the code large and its white border whole")
	errTooMuch = errors.New("it takes too long to search: cut out the part with the QR code")
)

// ReadFile returns the bytes in the QR code of a PNG or JPEG.
func ReadFile(ctx context.Context, name string) ([]byte, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a picture", name)
	}
	if info.Size() > maxFile {
		return nil, fmt.Errorf("%s has more than %d MiB: make the picture smaller", name, maxFile>>20)
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile))
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, errTooMuch)
	defer cancel()
	content, err := read(ctx, data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Base(name), err)
	}
	return content, nil
}

func read(ctx context.Context, data []byte) ([]byte, error) {
	picture, err := decode(ctx, data)
	if err != nil {
		return nil, err
	}
	largest := shrink(picture, sides[len(sides)-1])
	for _, side := range sides {
		for _, source := range sources(shrink(largest, side)) {
			for _, binarizer := range []gozxing.Binarizer{gozxing.NewHybridBinarizer(source), gozxing.NewGlobalHistgramBinarizer(source)} {
				if ctx.Err() != nil {
					return nil, context.Cause(ctx)
				}
				if content, ok := find(binarizer); ok {
					return content, nil
				}
			}
		}
		if max(largest.Rect.Dx(), largest.Rect.Dy()) <= side {
			break // that was all there is to see
		}
	}
	return nil, errNoCode
}

func decode(ctx context.Context, data []byte) (image.Image, error) {
	header, body := png.DecodeConfig, png.Decode
	switch {
	case bytes.HasPrefix(data, []byte("\x89PNG\r\n\x1a\n")):
	case bytes.HasPrefix(data, []byte("\xff\xd8\xff")):
		header, body = jpeg.DecodeConfig, jpeg.Decode
	default:
		return nil, errForm
	}
	config, err := header(bytes.NewReader(data))
	if err != nil || config.Width <= 0 || config.Height <= 0 {
		return nil, errDamaged
	}
	if config.Width > min(maxPixels, maxDecoded/bytesPerPixel(data, config))/config.Height {
		return nil, fmt.Errorf("it has %d x %d pixels: make the picture smaller, or cut out the QR code", config.Width, config.Height)
	}
	picture, err := body(&untilDone{ctx, bytes.NewReader(data)})
	switch {
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case err != nil:
		return nil, errDamaged
	}
	return picture, nil
}

// bytesPerPixel is what decoding takes at most. The library keeps 4 bytes of each of up to four
// components of a progressive JPEG besides the picture, and half of an interlaced PNG twice.
func bytesPerPixel(data []byte, config image.Config) int {
	switch config.ColorModel {
	case color.RGBA64Model, color.NRGBA64Model, color.Gray16Model:
		return 12
	}
	switch {
	case data[0] == 0x89: // PNG
		return 6
	case bytes.Contains(data, []byte("\xff\xc2")): // progressive (ISO/IEC 10918-1 table B.1)
		return 20
	}
	return 4
}

// untilDone is a reader that fails once the time is over, and with it what decodes.
type untilDone struct {
	ctx context.Context
	r   io.Reader
}

func (u *untilDone) Read(b []byte) (int, error) {
	if err := u.ctx.Err(); err != nil {
		return 0, err
	}
	return u.r.Read(b)
}

// shrink makes the picture gray, on white, with no side longer than the given one: each pixel is
// the mean of those it stands for. Line by line: a scaler of x/image takes 32 bytes a pixel.
func shrink(picture image.Image, side int) *image.Gray {
	from := picture.Bounds()
	size := from.Size()
	if longest := max(size.X, size.Y); longest > side {
		size = image.Pt(max(size.X*side/longest, 1), max(size.Y*side/longest, 1))
	} else if gray, ok := picture.(*image.Gray); ok {
		return gray
	}
	gray := image.NewGray(image.Rectangle{Max: size})
	line := image.NewGray(image.Rect(0, 0, from.Dx(), 1))
	sums, row := make([]int, size.X), 0
	count := make([]int, size.X)
	for y := range from.Dy() {
		draw.Draw(line, line.Rect, image.White, image.Point{}, draw.Src)
		draw.Draw(line, line.Rect, picture, from.Min.Add(image.Pt(0, y)), draw.Over)
		for x, light := range line.Pix {
			sums[x*size.X/from.Dx()] += int(light)
			count[x*size.X/from.Dx()]++
		}
		if next := (y + 1) * size.Y / from.Dy(); next > row {
			for x := range sums {
				gray.Pix[row*gray.Stride+x] = byte(sums[x] / count[x])
			}
			clear(sums)
			clear(count)
			row = next
		}
	}
	return gray
}

// sources are the same picture as it is, and turned upside down: the library stops looking for corners at the third, which data that look
// like a corner make it do too early, but hardly from both ends. Then both with light and dark exchanged.
func sources(gray *image.Gray) []gozxing.LuminanceSource {
	turned := image.NewGray(gray.Rect)
	for i, y := range gray.Pix {
		turned.Pix[len(turned.Pix)-1-i] = y
	}
	upright, upsideDown := gozxing.NewLuminanceSourceFromImage(gray), gozxing.NewLuminanceSourceFromImage(turned)
	return []gozxing.LuminanceSource{upright, upsideDown, upright.Invert(), upsideDown.Invert()}
}

// find looks for one code.
func find(binarizer gozxing.Binarizer) (content []byte, ok bool) {
	// Only a panic stops the library, and it may have some of its own for a picture that is made to find them: either way there is no code.
	defer func() {
		if recover() != nil {
			content, ok = nil, false
		}
	}()
	bitmap, err := gozxing.NewBinaryBitmap(binarizer)
	if err != nil {
		return nil, false
	}
	matrix, err := bitmap.GetBlackMatrix()
	if err != nil {
		return nil, false
	}
	seen := 0
	finder := detector.NewFinderPatternFinder(matrix, func(gozxing.ResultPoint) {
		if seen++; seen > maxCorners {
			panic("too many corners")
		}
	})
	d := detector.NewDetector(matrix)
	if info, err := finder.Find(map[gozxing.DecodeHintType]any{gozxing.DecodeHintType_TRY_HARDER: true}); err == nil {
		if content, ok = readBetween(d, info); ok {
			return content, true
		}
	}
	// One code in a hundred has data that look like a corner, and the finder has taken that for one. Try all of those seen most often.
	corners := finder.GetPossibleCenters()
	slices.SortStableFunc(corners, func(a, b *detector.FinderPattern) int { return b.GetCount() - a.GetCount() })
	corners = corners[:min(len(corners), maxTried)]
	for i := range corners {
		for j := range i {
			for k := range j {
				bottomLeft, topLeft, topRight := gozxing.ResultPoint_OrderBestPatterns(corners[i], corners[j], corners[k])
				info := detector.NewFinderPatternInfo(
					bottomLeft.(*detector.FinderPattern), topLeft.(*detector.FinderPattern), topRight.(*detector.FinderPattern))
				if content, ok = readBetween(d, info); ok {
					return content, true
				}
			}
		}
	}
	return nil, false
}

// readBetween reads the code between three corners. Its bytes pass through the library as text, one character each: so they come out the same
// whichever modes and character sets the program that drew them has chosen.
func readBetween(d *detector.Detector, corners *detector.FinderPatternInfo) (content []byte, ok bool) {
	found, err := d.ProcessFinderPatternInfo(corners)
	if err != nil {
		return nil, false
	}
	hints := map[gozxing.DecodeHintType]any{gozxing.DecodeHintType_CHARACTER_SET: "ISO-8859-1"}
	result, err := decoder.NewDecoder().Decode(found.GetBits(), hints)
	if err != nil {
		return nil, false
	}
	for _, c := range result.GetText() {
		if c > 0xff {
			return nil, false
		}
		content = append(content, byte(c))
	}
	return content, true
}
