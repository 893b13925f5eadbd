package main

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"unicode"

	"sotto/cmd/sotto/qrcode"
	"sotto/e2ee/safety"
)

const safetyDigits = 60

type safetyCompared struct {
	Event    string `json:"event"` // "safety_compared"
	Username string `json:"username"`
	Result   string `json:"result"` // "match", or of safetyResults
}

var safetyResults = []struct {
	err    error
	result string
}{
	{safety.ErrMismatch, "mismatch"},
	{safety.ErrOthers, "other_people"},
	{safety.ErrVersion, "other_version"},
}

// compareSafety finds out what it was given, and has the client compare it.
func compareSafety(ctx context.Context, out *output, c *session, username, what string) error {
	before, err := c.Contact(username)
	if err != nil {
		return err
	}
	shown, err := c.SafetyNumber(username) // of the key that appeared last
	if err != nil {
		return err
	}
	if digits, ok := asDigits(what); ok {
		if len(digits) != safetyDigits {
			return usagef("a safety number has %d digits, these are %d: give all of it, in quotes", safetyDigits, len(digits))
		}
		err = c.VerifyNumber(ctx, username, digits)
	} else {
		var scanned []byte
		if scanned, err = readCode(ctx, out.from, what); err != nil {
			return err
		}
		err = c.VerifyCode(ctx, username, scanned)
	}

	for _, known := range safetyResults {
		if errors.Is(err, known.err) {
			if out.json {
				out.say(safetyCompared{"safety_compared", username, known.result}, "")
			}
			return err
		}
	}
	if err != nil {
		return err
	}
	out.say(safetyCompared{"safety_compared", username, "match"}, "it matches: nobody stands between you and %s, who is marked as verified",
		username)
	if !before.Changed {
		return nil
	}
	verified, err := c.SafetyNumber(username)
	if err != nil {
		return err
	}
	if verified == shown {
		out.say(map[string]string{"event": "identity_accepted", "username": username}, "the new identity key of %s is accepted", username)
	} else {
		out.say(map[string]string{"event": "identity_refused", "username": username}, "%s still has the identity key they always had: the new "+
			"one is not theirs, and what came under it was dropped", username)
	}
	return nil
}

// asDigits recognises a number, however it is spaced.
func asDigits(what string) (string, bool) {
	digits := strings.Join(strings.Fields(what), "")
	return digits, digits != "" && !strings.ContainsFunc(digits, func(r rune) bool { return r > unicode.MaxASCII || !unicode.IsDigit(r) })
}

// readCode reads a picture if there is a file of that name, and otherwise takes the words for the code itself.
func readCode(ctx context.Context, from *origin, what string) ([]byte, error) {
	if picture := from.file(what); exists(picture) {
		return qrcode.ReadFile(ctx, picture)
	}
	code, err := base64.StdEncoding.Strict().DecodeString(what)
	if err != nil {
		return nil, fmt.Errorf("there is no picture %s, and it is neither a number of %d digits nor a code in base64", what, safetyDigits)
	}
	return code, nil
}
