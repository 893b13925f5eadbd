package main

import (
	"context"
	"runtime"
	"runtime/debug"
)

func versionCommand() *command {
	return &command{
		name:    "version",
		summary: "Print what this binary was built from",
		help:    "Print the version, the commit and the Go release this binary was built from.\n",
		run: func(_ context.Context, out *output, args []string) error {
			if err := exactly(0, args, "no argument"); err != nil {
				return err
			}
			version, commit := "unknown", "unknown"
			if info, ok := debug.ReadBuildInfo(); ok {
				version = info.Main.Version
				for _, s := range info.Settings {
					if s.Key == "vcs.revision" {
						commit = s.Value[:min(len(s.Value), 12)]
					}
				}
			}
			platform := runtime.GOOS + "/" + runtime.GOARCH
			out.say(map[string]string{"event": "version", "version": version, "commit": commit, "go": runtime.Version(), "platform": platform},
				"sotto %s, commit %s, %s, %s", version, commit, runtime.Version(), platform)
			return nil
		},
	}
}
