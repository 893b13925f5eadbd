// Package picture draws what a call was like, as PNG: the waveforms of what was spoken and heard, and a frame of what was seen.
package picture

import (
	"bytes"
	"errors"
	"fmt"
	"image"
	"image/png"
	"io"

	"golang.org/x/image/vp8"
)

// mostPixels of a frame are decoded: 4K. A peer chooses the size.
const mostPixels = 3840 * 2160

// Frame writes a VP8 key frame as PNG.
func Frame(w io.Writer, key []byte) error {
	decoder := vp8.NewDecoder()
	decoder.Init(bytes.NewReader(key), len(key))
	head, err := decoder.DecodeFrameHeader()
	switch {
	case err != nil:
		return fmt.Errorf("not a VP8 frame: %w", err)
	case !head.KeyFrame:
		return errors.New("not a key frame: only those can be drawn alone")
	case head.Width*head.Height > mostPixels:
		return fmt.Errorf("a frame of %d×%d is too large to draw", head.Width, head.Height)
	}
	frame, err := decode(decoder)
	if err != nil {
		return fmt.Errorf("damaged VP8 frame: %w", err)
	}
	stretch(frame.Y, 219, 16)
	stretch(frame.Cb, 224, 128)
	stretch(frame.Cr, 224, 128)
	return png.Encode(w, frame)
}

// stretch widens the range of a plane: VP8 holds video levels (ITU-R BT.601: black is 16, white 235), PNG takes all of a byte.
func stretch(plane []uint8, levels, zero int) {
	full := zero &^ 0x7f // where zero goes: black to 0, no colour to 128
	for i, v := range plane {
		plane[i] = uint8(max(0, min(255, (int(v)-zero)*255/levels+full)))
	}
}

// decode survives a decoder that does not survive its input.
func decode(d *vp8.Decoder) (frame *image.YCbCr, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%v", r)
		}
	}()
	return d.DecodeFrame()
}
