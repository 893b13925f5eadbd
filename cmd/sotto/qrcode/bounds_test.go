package qrcode

import (
	"bytes"
	"image"
	"image/color"
	"image/png"
	"runtime"
	"strings"
	"testing"
)

// TestPictureOfNothing: a file of some kilobytes must not cost hundreds of megabytes.
func TestPictureOfNothing(t *testing.T) {
	encode := func(picture image.Image) []byte {
		var file bytes.Buffer
		if err := (&png.Encoder{CompressionLevel: png.BestCompression}).Encode(&file, picture); err != nil {
			t.Fatal(err)
		}
		return file.Bytes()
	}
	palette := color.Palette{color.White, color.Black}
	file := encode(image.NewPaletted(image.Rect(0, 0, 5000, 5000), palette))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	picture, err := decode(t.Context(), file)
	if err != nil {
		t.Fatal(err)
	}
	for _, side := range sides {
		shrink(picture, side)
	}
	runtime.ReadMemStats(&after)
	if took := (after.TotalAlloc - before.TotalAlloc) >> 20; took > 80 {
		t.Errorf("%d bytes take %d MiB", len(file), took)
	}

	if _, err := decode(t.Context(), encode(image.NewNRGBA64(image.Rect(0, 0, 5000, 5000)))); err == nil ||
		!strings.Contains(err.Error(), "make the picture smaller") {
		t.Errorf("12 bytes for each of 25 million pixels: %v", err)
	}
}
