package main

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"os"
	"regexp"
	"strings"
	"testing"
)

// TestDashboard: each metric and each label that the dashboard asks for is one that a server or its
// relay shows, from its start on.
func TestDashboard(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	said, stdout := io.Pipe()
	ended := make(chan int, 1)
	go func() {
		ended <- run(ctx, []string{
			"serve", "--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0", "--data", t.TempDir(),
			"--drain", "0s",
		}, stdout, io.Discard)
		stdout.Close()
	}()
	var url string
	lines := bufio.NewScanner(said)
	sentence := regexp.MustCompile(`metrics and health at (\S+)/metrics`)
	for url == "" && lines.Scan() {
		if found := sentence.FindStringSubmatch(lines.Text()); found != nil {
			url = found[1]
		}
	}
	go io.Copy(io.Discard, said)
	_, server := get(t, url+"/metrics")
	_, relay := get(t, url+"/metrics/relay")
	shown := server + relay
	stop()
	if code := <-ended; code != exitDone {
		t.Errorf("the server ended with %d", code)
	}

	text, err := os.ReadFile("../../docs/grafana/sotto.json")
	if err != nil {
		t.Fatal(err)
	}
	var dashboard any
	if err := json.Unmarshal(text, &dashboard); err != nil {
		t.Fatal(err)
	}
	metric, by := regexp.MustCompile(`sotto_[a-z_]+`), regexp.MustCompile(`by \(([a-z, ]+)\)`)
	asked := map[string]bool{}
	for _, expression := range expressions(dashboard) {
		names := metric.FindAllString(expression, -1)
		if len(names) == 0 {
			t.Errorf("%s asks for no metric of ours", expression)
		}
		for _, name := range names {
			asked[name] = true
			line := regexp.MustCompile(`(?m)^` + name + `(\{.*\})? `).FindString(shown)
			if line == "" {
				t.Errorf("there is no metric %s", name)
			}
			for _, labels := range by.FindAllStringSubmatch(expression, -1) {
				for label := range strings.SplitSeq(labels[1], ", ") {
					if !strings.Contains(line, label+`="`) {
						t.Errorf("%s has no label %s", name, label)
					}
				}
			}
		}
	}
	if len(asked) < 20 {
		t.Errorf("only %d metrics were looked for", len(asked))
	}
}

// expressions are the queries of a dashboard, wherever they are in it.
func expressions(in any) (all []string) {
	switch in := in.(type) {
	case []any:
		for _, v := range in {
			all = append(all, expressions(v)...)
		}
	case map[string]any:
		for name, v := range in {
			if text, ok := v.(string); ok && name == "expr" {
				all = append(all, text)
			}
			all = append(all, expressions(v)...)
		}
	}
	return all
}
