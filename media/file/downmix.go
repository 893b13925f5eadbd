package file

import "math/bits"

// fullWeight is that of all channels together, so that no sound is too loud for its samples.
const fullWeight = 1 << 16

// Channels of a WAV file (WAVEFORMATEXTENSIBLE, dwChannelMask), with what each counts in a mix to
// one channel: ITU-R BS.775-3, table 2, 1/0. Low-frequency effects are left out (its annex 7).
var speakers = [...]float64{
	0.7071, 0.7071, // front left and right
	1,        // front centre: what is said in a film
	0,        // low-frequency effects
	0.5, 0.5, // back left and right
	0.7071, 0.7071, // left and right of the centre
	0.5,      // back centre
	0.5, 0.5, // side left and right
}

// usualMasks are those of files that do not say where their channels are, by how many they have.
var usualMasks = [maxChannels + 1]uint32{
	1: 0x4, 2: 0x3, 3: 0x7, 4: 0x33, 5: 0x37, 6: 0x3f, 7: 0x70f, 8: 0x63f,
}

// downmix weighs the channels, which are in the order of the mask's bits.
func downmix(channels int, mask uint32) []int32 {
	if bits.OnesCount32(mask) != channels || mask >= 1<<len(speakers) {
		mask = usualMasks[channels]
	}
	shares, sum := make([]float64, 0, channels), 0.0
	for ; mask != 0; mask &= mask - 1 {
		share := speakers[bits.TrailingZeros32(mask)]
		shares, sum = append(shares, share), sum+share
	}
	weights := make([]int32, channels)
	for i, share := range shares {
		weights[i] = fullWeight // the only one, of low frequencies
		if sum > 0 {
			weights[i] = int32(share / sum * fullWeight)
		}
	}
	return weights
}
