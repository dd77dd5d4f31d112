package main

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"

	"github.com/mailtrapwebhook/mailtrapwebhook"
)

// A delivery is a capture and what the list needs to know of it. A delivery in
// the store does not change: a new one takes its place when it is answered.
type delivery struct {
	*capture
	verdict verdict
	content content
	onDisk  bool
	change  uint64 // numbers the changes of the store
}

// inspect looks at a capture.
func inspect(c *capture, secrets []string) *delivery {
	return &delivery{capture: c, verdict: judge(c.header, c.body, secrets), content: contentOf(c.body)}
}

// A verdict says whether a delivery verifies.
type verdict struct {
	verified string // "yes", "no", or "unknown" without a secret
	secret   int    // the number of the secret that matches, from 1
	text     string // a sentence
	fix      string // a sentence, or ""
}

const (
	verifiedYes     = "yes"
	verifiedNo      = "no"
	verifiedUnknown = "unknown"
)

// judge checks the signature.
func judge(header http.Header, body []byte, secrets []string) verdict {
	if len(secrets) == 0 {
		return verdict{verifiedUnknown, 0, "There is no secret to check the signature with.",
			"Set " + secretVariable + " to the signing secret in the webhook's settings, and start again."}
	}
	signatures := header.Values(mailtrapwebhook.SignatureHeader)
	if len(signatures) > 1 {
		return verdict{verifiedNo, 0, "The request has several signatures, and Mailtrap sends one.",
			"Find out who added the others."}
	}
	signature := header.Get(mailtrapwebhook.SignatureHeader)
	for i, secret := range secrets {
		if mailtrapwebhook.Verify(body, signature, secret) == nil {
			return verdict{verifiedYes, i + 1, "The signature matches.", ""}
		}
	}
	if len(body) > maxDiagnosed {
		return verdict{verifiedNo, 0, "The signature does not match the body.",
			"Download the capture, and let inspector diagnose find out why."}
	}
	diagnosing.Lock()
	defer diagnosing.Unlock()
	return mismatch(mailtrapwebhook.Diagnose(body, signature, secrets...))
}

// maxDiagnosed and diagnosing bound what strangers can cost: a diagnosis signs
// the body dozens of times.
const maxDiagnosed = 1 << 20

var diagnosing sync.Mutex

// mismatch returns the verdict that an error of Diagnose is. Its text is a
// cause, a colon and a fix.
func mismatch(err error) verdict {
	cause, fix, _ := strings.Cut(errorText(err), ": ")
	return verdict{verifiedNo, 0, asSentence(cause), asSentence(fix)}
}

// asSentence makes a sentence of the text of an error.
func asSentence(text string) string {
	first, size := utf8.DecodeRuneInString(text)
	if size == 0 {
		return ""
	}
	text = string(unicode.ToUpper(first)) + text[size:]
	if strings.HasSuffix(text, "?") || strings.HasSuffix(text, ")") && strings.Contains(text, "?") {
		return text
	}
	return strings.TrimSuffix(text, ".") + "."
}

// A content is what a body holds.
type content struct {
	format mailtrapwebhook.Format
	events int
	odd    int            // events with an Err
	kinds  map[string]int // at most maxKinds
	search string         // addresses and keys in lower case, at most maxSearch bytes
	fault  *mailtrapwebhook.DecodeError
}

// Bounds of what is kept of a hostile body besides its bytes.
const (
	maxKinds  = 100
	maxSearch = 256 << 10
	maxName   = 100
)

// The kinds that stand for several.
const (
	kindUnknown = "unknown"
	kindOther   = "other" // where a body has more than maxKinds
)

// contentOf decodes a body.
func contentOf(body []byte) content {
	c := content{kinds: make(map[string]int)}
	var search strings.Builder
	c.fault = eachEvent(body, func(ev mailtrapwebhook.Event, format mailtrapwebhook.Format) bool {
		c.format = format
		c.events++
		if errOf(ev) != nil {
			c.odd++
		}
		kind := kindOf(ev)
		if c.kinds[kind] == 0 && len(c.kinds) >= maxKinds {
			kind = kindOther
		}
		c.kinds[kind]++
		if text := searchText(ev); search.Len()+len(text) <= maxSearch {
			search.WriteString(text)
		}
		return true
	})
	c.search = strings.Clone(search.String())
	return c
}

// eachEvent calls do for each event of a body until it returns false. It
// returns the fault of a body that is broken as a whole.
//
// It decodes as a stream, since the events of a body of 8 MiB take as much again.
func eachEvent(
	body []byte, do func(mailtrapwebhook.Event, mailtrapwebhook.Format) bool,
) *mailtrapwebhook.DecodeError {
	decoder := mailtrapwebhook.NewDecoder(bytes.NewReader(body))
	decoder.MaxEventBytes = maxBody
	for {
		ev, err := decoder.Decode()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			fault, _ := errors.AsType[*mailtrapwebhook.DecodeError](err) // a Reader has no other errors
			return fault
		}
		if !do(ev, decoder.Format()) {
			return nil
		}
	}
}

// kindOf returns the name that the lists have for the kind of an event.
func kindOf(ev mailtrapwebhook.Event) string {
	if _, ok := ev.(*mailtrapwebhook.UnknownEvent); ok || len(ev.Name()) > maxName {
		return kindUnknown
	}
	return strings.ToValidUTF8(ev.Name(), "\uFFFD")
}

// searchText returns what a delivery is found by, a line for each value.
func searchText(ev mailtrapwebhook.Event) string {
	text := ev.Key() + "\n"
	switch ev := ev.(type) {
	case *mailtrapwebhook.SendingWebhookEvent:
		// A key has no unusual ids.
		text += ev.Email + "\n" + missingFrom(text, ev.MessageID) + missingFrom(text, ev.EventID)
	case *mailtrapwebhook.InboundWebhookEvent:
		text += ev.From + "\n" + missingFrom(text, ev.MessageID) + missingFrom(text, ev.EventID)
	}
	return strings.ToLower(text)
}

func missingFrom(text, id string) string {
	if strings.Contains(text, id) {
		return ""
	}
	return id + "\n"
}

func errOf(ev mailtrapwebhook.Event) *mailtrapwebhook.DecodeError {
	var err error
	switch ev := ev.(type) {
	case *mailtrapwebhook.SendingWebhookEvent:
		err = ev.Err
	case *mailtrapwebhook.ActivityLogWebhookEvent:
		err = ev.Err
	case *mailtrapwebhook.InboundWebhookEvent:
		err = ev.Err
	case *mailtrapwebhook.UnknownEvent:
		err = ev.Err
	}
	fault, _ := errors.AsType[*mailtrapwebhook.DecodeError](err)
	return fault
}

// formatName returns the name of a body's format, or "".
func formatName(format mailtrapwebhook.Format) string {
	if format == 0 {
		return ""
	}
	return format.String()
}

// kindList returns the kinds and their numbers for a line of text, the most
// frequent first.
func (c content) kindList() string {
	type count struct {
		kind string
		n    int
	}
	var counts []count
	for kind, n := range c.kinds {
		counts = append(counts, count{kind, n})
	}
	slices.SortFunc(counts, func(a, b count) int {
		return cmp.Or(b.n-a.n, strings.Compare(a.kind, b.kind))
	})
	var list []string
	for _, c := range counts {
		list = append(list, fmt.Sprintf("%d %s", c.n, c.kind))
	}
	const most = 4
	if len(list) > most {
		list = append(list[:most-1], fmt.Sprintf("%d more kinds", len(list)-most+1))
	}
	return strings.Join(list, ", ")
}
