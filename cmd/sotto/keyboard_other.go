//go:build !linux && !darwin

package main

// singleKeys does nothing here: keys come with Enter.
func singleKeys() (restore func(), err error) { return func() {}, nil }
