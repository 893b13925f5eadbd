package main

import (
	"context"
	"runtime"
	"runtime/debug"

	"sotto/internal/visible"
)

func versionCommand() *command {
	return &command{
		name:    "version",
		summary: "Print what this binary was built from",
		help:    "Print the version, the commit and its time, and the Go release this binary was built from.\n",
		run: func(_ context.Context, out *output, args []string) error {
			if err := exactly(0, args, "no argument"); err != nil {
				return err
			}
			line := built()
			text := []visible.Text{visible.Sprintf("sotto %s", line.Version)}
			if line.Commit != "" {
				text = append(text, visible.Sprintf("commit %s of %s", line.Commit[:min(len(line.Commit), 12)], line.Time))
			}
			if line.Modified {
				text = append(text, visible.Sprintf("changed since"))
			}
			text = append(text, visible.Sprintf("%s", line.Go), visible.Sprintf("%s", line.Platform))
			out.say(line, "%s", visible.Join(", ", text...))
			return nil
		},
	}
}

type versionLine struct {
	Event    string `json:"event"` // "version"
	Version  string `json:"version"`
	Commit   string `json:"commit,omitempty"`
	Time     string `json:"time,omitempty"` // of the commit
	Modified bool   `json:"modified,omitempty"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

// built is what the Go tool wrote into this binary: the module's version, and of a build in a clone
// the commit. "go run" and "-buildvcs=false" write none.
func built() versionLine {
	line := versionLine{Event: "version", Version: "unknown", Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return line
	}
	line.Version = info.Main.Version
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			line.Commit = s.Value
		case "vcs.time":
			line.Time = s.Value
		case "vcs.modified":
			line.Modified = s.Value == "true"
		}
	}
	return line
}
