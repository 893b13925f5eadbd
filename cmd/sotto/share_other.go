//go:build !linux && !darwin

package main

import (
	"context"
	"errors"
	"io"
	"os"
)

// Standard streams cannot be handed to another process here: one command at a time has an account.

func (h *holder) listen(context.Context, string) (closing func(), err error) {
	return nil, errors.New("this system cannot hand over standard streams")
}

func handOver(context.Context, *origin, string) (exit int, err error) { return 0, errNoHolder }

func untilDone(_ context.Context, f *os.File) io.Reader { return f }
