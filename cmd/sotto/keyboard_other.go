//go:build !linux && !darwin

package main

import "os"

// singleKeys does nothing here: keys come with Enter.
func singleKeys(*os.File) (restore func(), err error) { return func() {}, nil }
