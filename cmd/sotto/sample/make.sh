#!/bin/sh
# Makes the media that `sotto demo` speaks and shows: two voices and two moving pictures. Needs espeak-ng, and ffmpeg with libopus,
# libvpx and drawtext. The results differ from version to version of these programs, so they are committed.
set -eu
cd "$(dirname "$0")"
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

seconds=12

# speak NAME VOICE TEXT
speak() {
	espeak-ng -v "$2" -s 168 -g 1 -w "$tmp/$1.wav" "$3"
	ffmpeg -v error -y -i "$tmp/$1.wav" -af "aresample=48000,volume=-2dB,apad" -t $seconds -ac 1 "$tmp/48-$1.wav"
	ffmpeg -v error -y -i "$tmp/48-$1.wav" -c:a libopus -b:a 32k -application voip -map_metadata -1 -fflags +bitexact "speech-$1.ogg"
}

# show NAME COLOUR COLOUR COLOUR: a slow gradient, the name, the speaker's own voice as a wave, a frame counter. A key frame every
# two seconds, and frames that do not depend on the entropy state of the one before (-error-resilient 1).
show() {
	font=fontfile=$(fc-match -f '%{file}' 'DejaVu Sans'):fontcolor=white
	mono=fontfile=$(fc-match -f '%{file}' 'DejaVu Sans Mono'):fontcolor=white
	ffmpeg -v error -y -f lavfi -i "gradients=s=640x360:r=25:d=$seconds:c0=$2:c1=$3:c2=$4:n=3:x0=0:y0=0:x1=640:y1=360:speed=0.012:seed=7" -i "$tmp/48-$1.wav" \
		-filter_complex "[1:a]showwaves=s=640x200:r=25:mode=cline:colors=white:scale=sqrt,format=rgba,colorchannelmixer=aa=0.75[wave];
			[0:v][wave]overlay=0:140:shortest=1,
			drawtext=$font:text='$1':fontsize=64:x=40:y=52,
			drawtext=$font:text='a private call with Sotto':fontsize=20:alpha=0.8:x=44:y=128,
			drawtext=$mono:text='frame %{frame_num}':fontsize=20:x=w-tw-24:y=h-40" \
		-t $seconds -pix_fmt yuv420p -c:v libvpx -b:v 230k -crf 18 -g 50 -deadline good -cpu-used 1 -error-resilient 1 \
		-auto-alt-ref 0 -lag-in-frames 0 -fflags +bitexact "picture-$1.ivf"
}

speak alice en-gb+f2 "Hello Bob, this is Alice. Can you hear me? My voice is sealed before it leaves this machine, and only you can open it. The
server in the middle passes it on, and cannot listen."
speak bob en-us+m3 "Hi Alice, loud and clear. Let us compare the six digits on our screens. If they are the same, nobody sits between us.
What a pleasant way to talk."
show alice 0x5b2a86 0x9b3d7a 0xe08a5b
show bob 0x0b3c5d 0x1f7a8c 0x3fae7a
ls -l ./*.ogg ./*.ivf
