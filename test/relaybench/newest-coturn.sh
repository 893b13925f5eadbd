#!/bin/sh
# Unpacks the coturn of Debian unstable and the libraries it needs into a folder, from the mirror this Debian system uses. Nothing is installed:
#
#   sh test/relaybench/newest-coturn.sh /tmp/unstable
#   chroot /tmp/unstable turnserver --version
set -eu
[ $# = 1 ] || { echo "usage: $0 FOLDER" >&2; exit 2; }
mkdir -p "$1"
root=$(cd "$1" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

mirror=$(apt-get indextargets --format '$(CODENAME) $(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' 'Label: Debian' | awk 'NR == 1 { print $2 }')
[ -n "$mirror" ] || { echo 'apt knows no mirror of Debian' >&2; exit 1; }
mkdir -p "$work/lists/partial" "$work/cache/archives/partial" "$work/parts"
: >"$work/status" # as if nothing were installed
echo "deb $mirror unstable main" >"$work/sources.list"
apt() {
	apt-get -qq -o Dir::Etc::SourceList="$work/sources.list" -o Dir::Etc::SourceParts="$work/parts" -o Dir::State="$work" -o Dir::State::Status="$work/status" \
		-o Dir::Cache="$work/cache" -o APT::Sandbox::User=root -o APT::Install-Recommends=false -o Debug::NoLocking=true "$@"
}
apt update
apt --download-only --yes install coturn
for part in bin lib lib64 sbin; do # Debian's merged /usr
	mkdir -p "$root/usr/$part"
	[ -e "$root/$part" ] || ln -s "usr/$part" "$root/$part"
done
for package in "$work"/cache/archives/*.deb; do
	dpkg-deb --extract "$package" "$root"
done
mkdir -p "$root/dev" "$root/tmp"
[ -e "$root/dev/null" ] || mknod -m 666 "$root/dev/null" c 1 3
[ -e "$root/dev/urandom" ] || mknod -m 666 "$root/dev/urandom" c 1 9
