package main

import (
	"log/slog"
	"os"
)

func testLog() *slog.Logger { return newOutput(os.Stdout, os.Stderr, false).logger(false) }
