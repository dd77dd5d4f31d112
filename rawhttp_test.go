package mailtrapwebhook_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	mw "github.com/mailtrapwebhook/mailtrapwebhook"
)

// The requests in this file are text, since no client would send them. They are
// signed unless they say otherwise, so the signature does not refuse them.
var (
	rawBody    = string(bodyOf("a"))
	rawDigits  = directSignature([]byte(rawBody), testSecret)
	rawSigned  = mw.SignatureHeader + ": " + rawDigits
	rawForged  = mw.SignatureHeader + ": " + directSignature([]byte(rawBody), otherSecret)
	rawLength  = fmt.Sprintf("Content-Length: %d", len(rawBody))
	rawChunks  = rawChunk(rawBody[:20]) + rawChunk(rawBody[20:]) + rawEnd
	rawAnother = rawPost(rawBody, rawLength, rawForged) // smuggled behind a signed request
)

const (
	rawLine    = "POST / HTTP/1.1"
	rawChunked = "Transfer-Encoding: chunked"
	rawEnd     = "0\r\n\r\n"
)

// rawText makes a request of its lines, the request line first.
func rawText(body string, lines ...string) string {
	return strings.Join(lines, "\r\n") + "\r\n\r\n" + body
}

func rawPost(body string, lines ...string) string {
	return rawText(body, append([]string{rawLine, "Host: x"}, lines...)...)
}

func rawChunk(data string) string { return fmt.Sprintf("%x\r\n%s\r\n", len(data), data) }

// rawLineOf makes the signed request with another request line.
func rawLineOf(line string) string { return rawText(rawBody, line, "Host: x", rawLength, rawSigned) }

// rawSizes makes the signed request of one chunk, whose size reads as given.
func rawSizes(size string) string {
	return rawPost(size+"\r\n"+rawBody+"\r\n"+rawEnd, rawChunked, rawSigned)
}

// exchange sends text, closes its side, and returns the statuses of the answers.
func (rig *rig) exchange(text string) (statuses []int) {
	rig.t.Helper()
	conn, err := net.Dial("tcp", rig.srv.Listener.Addr().String())
	require.NoError(rig.t, err)
	defer conn.Close()
	require.NoError(rig.t, conn.SetDeadline(time.Now().Add(20*time.Second)))
	_, _ = io.WriteString(conn, text) // the server may hang up before the end
	_ = conn.(*net.TCPConn).CloseWrite()
	for answers := bufio.NewReader(conn); ; {
		answer, err := http.ReadResponse(answers, nil)
		if err != nil {
			timeout, ok := err.(net.Error)
			require.False(rig.t, ok && timeout.Timeout(), "the server neither answers nor hangs up")
			return statuses
		}
		_, _ = io.Copy(io.Discard, answer.Body)
		statuses = append(statuses, answer.StatusCode)
	}
}

// requireCalm fails if anything panicked.
func (rig *rig) requireCalm() {
	rig.t.Helper()
	rig.srv.Close() // nothing is logged after that
	for _, sign := range []string{"panic", `"stack"`, "goroutine "} {
		require.NotContains(rig.t, rig.said.String(), sign)
	}
}

var rawMalformed = map[string]string{
	"two lengths, the right one first":      rawPost(rawBody, rawLength, "Content-Length: 5", rawSigned),
	"two lengths, the right one last":       rawPost(rawBody, "Content-Length: 5", rawLength, rawSigned),
	"lengths in a list":                     rawPost(rawBody, rawLength+", 5", rawSigned),
	"equal lengths in a list":               rawPost(rawBody, rawLength+", "+strconv.Itoa(len(rawBody)), rawSigned),
	"length with a sign":                    rawPost(rawBody, strings.Replace(rawLength, " ", " +", 1), rawSigned),
	"length in hexadecimal":                 rawPost(rawBody, fmt.Sprintf("Content-Length: %#x", len(rawBody)), rawSigned),
	"length with an underscore":             rawPost(rawBody, strings.Replace(rawLength, ": 1", ": 1_", 1), rawSigned),
	"negative length":                       rawPost(rawBody, "Content-Length: -1", rawSigned),
	"length over 64 bits":                   rawPost(rawBody, "Content-Length: 18446744073709551617", rawSigned),
	"empty length":                          rawPost(rawBody, "Content-Length:", rawSigned),
	"no length":                             rawPost(rawBody, rawSigned),
	"length too short":                      rawPost(rawBody, fmt.Sprintf("Content-Length: %d", len(rawBody)-1), rawSigned),
	"length too long":                       rawPost(rawBody, fmt.Sprintf("Content-Length: %d", len(rawBody)+1), rawSigned),
	"length and chunked, a plain body":      rawPost(rawBody, rawLength, rawChunked, rawSigned),
	"chunked twice":                         rawPost(rawChunks, rawChunked, rawChunked, rawSigned),
	"chunked and gzip":                      rawPost(rawChunks, "Transfer-Encoding: gzip, chunked", rawSigned),
	"chunked and identity":                  rawPost(rawChunks, rawChunked, "Transfer-Encoding: identity", rawSigned),
	"identity and a length":                 rawPost(rawBody, rawLength, "Transfer-Encoding: identity", rawSigned),
	"chunked behind a vertical tab":         rawPost(rawChunks, "Transfer-Encoding: \vchunked", rawSigned),
	"chunked in quotes":                     rawPost(rawChunks, `Transfer-Encoding: "chunked"`, rawSigned),
	"chunked before a space and a colon":    rawPost(rawChunks, "Transfer-Encoding : chunked", rawSigned),
	"chunked in HTTP/1.0":                   rawText(rawChunks, "POST / HTTP/1.0", rawChunked, rawSigned),
	"chunked of an unknown kind and length": rawPost(rawBody, rawLength, "Transfer-Encoding: xchunked", rawSigned),

	"chunk size that is none":            rawSizes("g"),
	"chunk size with a sign":             rawSizes(fmt.Sprintf("+%x", len(rawBody))),
	"negative chunk size":                rawSizes(fmt.Sprintf("-%x", len(rawBody))),
	"chunk size with 0x":                 rawSizes(fmt.Sprintf("%#x", len(rawBody))),
	"chunk size behind a space":          rawSizes(fmt.Sprintf(" %x", len(rawBody))),
	"chunk size over 64 bits":            rawSizes(fmt.Sprintf("1%016x", len(rawBody))),
	"chunk size of many zeros":           rawSizes(fmt.Sprintf("%064x", len(rawBody))),
	"empty chunk size":                   rawSizes(""),
	"chunk size too small":               rawSizes(fmt.Sprintf("%x", len(rawBody)-1)),
	"chunk size too large":               rawSizes(fmt.Sprintf("%x", len(rawBody)+1)),
	"chunk size that ends in LF":         rawPost(strings.Replace(rawChunks, "\r\n", "\n", 1), rawChunked, rawSigned),
	"chunk size that ends in CR":         rawPost(strings.Replace(rawChunks, "\r\n", "\r", 1), rawChunked, rawSigned),
	"LF in a chunk extension":            rawSizes(fmt.Sprintf("%x;a\nb", len(rawBody))),
	"chunk extension of 64 KB":           rawSizes(fmt.Sprintf("%x;a=%s", len(rawBody), strings.Repeat("b", 64<<10))),
	"chunks of nothing but extensions":   rawPost(rawByteChunks(";a="+strings.Repeat("b", 1<<10)), rawChunked, rawSigned),
	"chunk without CRLF":                 rawPost(fmt.Sprintf("%x\r\n%s%s", len(rawBody), rawBody, rawEnd), rawChunked, rawSigned),
	"chunks without an end":              rawPost(rawChunk(rawBody), rawChunked, rawSigned),
	"chunks without the last empty line": rawPost(strings.TrimSuffix(rawChunks, "\r\n"), rawChunked, rawSigned),
	"chunks that end early":              rawPost(rawChunk(rawBody[:20])+rawEnd+rawChunk(rawBody[20:])+rawEnd, rawChunked, rawSigned),
	"the signature in a trailer":         rawPost(strings.TrimSuffix(rawChunks, "\r\n")+rawSigned+"\r\n\r\n", rawChunked),
	"the signature in an announced trailer": rawPost(strings.TrimSuffix(rawChunks, "\r\n")+rawSigned+"\r\n\r\n",
		rawChunked, "Trailer: "+mw.SignatureHeader),
	"the right signature in a trailer, a wrong one before": rawPost(strings.TrimSuffix(rawChunks, "\r\n")+rawSigned+"\r\n\r\n",
		rawChunked, "Trailer: "+mw.SignatureHeader, rawForged),
	"malformed trailer": rawPost(strings.TrimSuffix(rawChunks, "\r\n")+"no colon\r\n\r\n", rawChunked, rawSigned),

	"two signatures":                       rawPost(rawBody, rawLength, rawSigned, rawSigned),
	"two signatures in different case":     rawPost(rawBody, rawLength, rawSigned, strings.ToLower(rawSigned)),
	"a right and a wrong signature":        rawPost(rawBody, rawLength, rawSigned, strings.ToUpper(rawForged)),
	"a wrong and a right signature":        rawPost(rawBody, rawLength, strings.ToLower(rawForged), rawSigned),
	"a signature and an empty one":         rawPost(rawBody, rawLength, rawSigned, mw.SignatureHeader+":"),
	"signatures in a list":                 rawPost(rawBody, rawLength, rawSigned+", "+rawDigits),
	"signature folded in the middle":       rawPost(rawBody, rawLength, strings.Replace(rawSigned, rawDigits[:30], rawDigits[:30]+"\r\n\t", 1)),
	"signature folded into another header": rawPost(rawBody, rawLength, "X: y", " "+rawSigned),
	"signature before a space and a colon": rawPost(rawBody, rawLength, strings.Replace(rawSigned, ":", " :", 1)),
	"signature with a space in its name":   rawPost(rawBody, rawLength, strings.Replace(rawSigned, "-", " ", 1)),
	"signature with underscores":           rawPost(rawBody, rawLength, strings.Replace(rawSigned, "-", "_", 1)),
	"signature with NUL behind":            rawPost(rawBody, rawLength, rawSigned+"\x00"),
	"signature with NUL in its name":       rawPost(rawBody, rawLength, strings.Replace(rawSigned, "-", "-\x00", 1)),
	"signature in the request line":        rawText(rawBody, "POST /?"+mw.SignatureHeader+"="+rawDigits+" HTTP/1.1", "Host: x", rawLength),
	"signature behind the headers":         rawPost(rawSigned+"\r\n\r\n"+rawBody, rawLength),
	"header name that is not ASCII":        rawPost(rawBody, rawLength, "Hé: x", rawSigned),
	"header without a name":                rawPost(rawBody, rawLength, ": x", rawSigned),
	"header without a colon":               rawPost(rawBody, rawLength, "x", rawSigned),
	"header with NUL":                      rawPost(rawBody, rawLength, "X: a\x00b", rawSigned),
	"header with CR":                       rawPost(rawBody, rawLength, "X: a\rb", rawSigned),
	"header behind white space":            rawText(rawBody, rawLine, " Host: x", rawLength, rawSigned),
	"headers of 2 MB":                      rawPost(rawBody, rawLength, "X: "+strings.Repeat("a", 2<<20), rawSigned),
	"headers without an end":               strings.TrimSuffix(rawPost("", rawLength, rawSigned), "\r\n"),
	"lines that end in CR":                 strings.ReplaceAll(rawPost(rawBody, rawLength, rawSigned), "\r\n", "\r"),
	"no host":                              rawText(rawBody, rawLine, rawLength, rawSigned),
	"two hosts":                            rawPost(rawBody, "Host: y", rawLength, rawSigned),
	"malformed host":                       rawText(rawBody, rawLine, "Host: x y", rawLength, rawSigned),

	"HTTP/0.9":                         rawLineOf("POST /"),
	"HTTP/0.9 with its number":         rawLineOf("POST / HTTP/0.9"),
	"HTTP/2 in clear text":             rawLineOf("POST / HTTP/2.0"),
	"HTTP/2 with its preface":          "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + rawPost(rawBody, rawLength, rawSigned),
	"HTTP of a lower case":             rawLineOf("POST / http/1.1"),
	"HTTP/1.1 and something more":      rawLineOf("POST / HTTP/1.1 x"),
	"HTTP/1.10":                        rawLineOf("POST / HTTP/1.10"),
	"an empty line before":             "\r\n" + rawPost(rawBody, rawLength, rawSigned),
	"a space before":                   " " + rawPost(rawBody, rawLength, rawSigned),
	"NUL before":                       "\x00" + rawPost(rawBody, rawLength, rawSigned),
	"several spaces":                   rawLineOf("POST  /  HTTP/1.1"),
	"a tab for the space":              rawLineOf("POST\t/\tHTTP/1.1"),
	"no target":                        rawLineOf("POST HTTP/1.1"),
	"target without a slash":           rawLineOf("POST x HTTP/1.1"),
	"target with a control character":  rawLineOf("POST /\x01 HTTP/1.1"),
	"target with a bad escape":         rawLineOf("POST /%zz HTTP/1.1"),
	"absolute target with a bad port":  rawLineOf("POST http://x:port/ HTTP/1.1"),
	"absolute target with a bad host":  rawLineOf("POST http://[::1/ HTTP/1.1"),
	"method of lower case":             rawLineOf("post / HTTP/1.1"),
	"method with a NUL":                rawLineOf("POST\x00 / HTTP/1.1"),
	"CONNECT":                          rawLineOf("CONNECT x:80 HTTP/1.1"),
	"GET with a body":                  rawLineOf("GET / HTTP/1.1"),
	"a method in a header":             rawText(rawBody, "GET / HTTP/1.1", "Host: x", "X-HTTP-Method-Override: POST", rawLength, rawSigned),
	"an expectation that nobody meets": rawPost(rawBody, rawLength, "Expect: 200-ok", rawSigned),
	"TLS":                              "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + rawBody,
	"nothing":                          "",

	"smuggled behind a length, if chunks count":    rawPost(rawEnd+rawAnother, rawChunked, "Content-Length: "+strconv.Itoa(len(rawEnd+rawAnother)), rawSigned),
	"smuggled behind chunks, if the length counts": rawPost(rawChunk(rawAnother)+rawEnd, "Content-Length: 4", rawChunked, rawSigned),
	"smuggled into a trailer":                      rawPost("0\r\n"+rawAnother, rawChunked, rawSigned),
	"smuggled into a header":                       rawPost(rawBody, rawLength, "X: y\n\n"+rawAnother, rawSigned),
	"smuggled behind GET":                          rawText(rawAnother, "GET / HTTP/1.1", "Host: x", rawSigned),
	"smuggled behind an empty chunk size":          rawPost("\r\n"+rawAnother, rawChunked, rawSigned),
}

// rawByteChunks makes chunks of one byte, with an extension behind each size.
func rawByteChunks(extension string) string {
	var text strings.Builder
	for i := range len(rawBody) {
		fmt.Fprintf(&text, "1%s\r\n%s\r\n", extension, rawBody[i:i+1])
	}
	return text.String() + rawEnd
}

// A request that is not clean HTTP reaches no callback, even if it is signed.
func TestMalformedHTTPIsRefused(t *testing.T) {
	t.Parallel()
	for name, text := range rawMalformed {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rig := newRig(t, &mw.Handler{Dedup: &recordingStore{}}).serve()
			for _, status := range rig.exchange(text) {
				require.GreaterOrEqual(t, status, 400)
			}
			require.Equal(t, []int{200}, rig.exchange(rawPost(string(bodyOf("next")),
				fmt.Sprintf("Content-Length: %d", len(bodyOf("next"))),
				mw.SignatureHeader+": "+directSignature(bodyOf("next"), testSecret))), "it serves on")
			require.Equal(t, []string{"next"}, rig.handled())
			require.Equal(t, []string{"Reserve", "Commit"}, rig.h.Dedup.(*recordingStore).names())
			rig.requireCalm()
		})
	}
}

// A signed request that net/http reads in one way only is served. A server may
// accept bare LF and folded headers (RFC 9112, 2.2 and 5.2). Of a length and
// chunks, the chunks count (6.3).
func TestSignedHTTPIsServed(t *testing.T) {
	t.Parallel()
	clean := rawPost(rawBody, rawLength, rawSigned)
	body := func(id string) string { return string(bodyOf(id)) }
	post := func(id string) string {
		return rawPost(body(id), fmt.Sprintf("Content-Length: %d", len(body(id))),
			mw.SignatureHeader+": "+directSignature(bodyOf(id), testSecret))
	}
	chunked := func(id string) string {
		return rawPost(rawChunk(body(id)[:7])+rawChunk(body(id)[7:])+rawEnd, rawChunked,
			mw.SignatureHeader+": "+directSignature(bodyOf(id), testSecret))
	}
	tests := map[string]struct {
		text    string
		want    []int
		handled []string
	}{
		"HTTP/1.1":                         {clean, []int{200}, []string{"a"}},
		"HTTP/1.0":                         {rawText(rawBody, "POST / HTTP/1.0", rawLength, rawSigned), []int{200}, []string{"a"}},
		"HTTP/1.0, kept alive":             {strings.Repeat(rawText(rawBody, "POST / HTTP/1.0", "Connection: keep-alive", rawLength, rawSigned), 2), []int{200, 200}, []string{"a", "a"}},
		"chunked":                          {rawPost(rawChunks, rawChunked, rawSigned), []int{200}, []string{"a"}},
		"a byte in each chunk":             {rawPost(rawByteChunks(""), rawChunked, rawSigned), []int{200}, []string{"a"}},
		"chunk with an extension":          {rawSizes(fmt.Sprintf("%x;a=b", len(rawBody))), []int{200}, []string{"a"}},
		"chunk size of upper case, with 0": {rawSizes(fmt.Sprintf("00%X", len(rawBody))), []int{200}, []string{"a"}},
		"chunked with a trailer":           {rawPost(strings.TrimSuffix(rawChunks, "\r\n")+"X: y\r\n\r\n", rawChunked, rawSigned), []int{200}, []string{"a"}},
		"right signature, another in a trailer": {rawPost(strings.TrimSuffix(rawChunks, "\r\n")+rawForged+"\r\n\r\n",
			rawChunked, "Trailer: "+mw.SignatureHeader, rawSigned), []int{200}, []string{"a"}},
		"names of any case, white space round values": {rawPost(rawBody, "cOnTeNt-LeNgTh:\t"+strconv.Itoa(len(rawBody)),
			"MAILTRAP-signature: \t"+strings.ToUpper(rawDigits)+" \t"), []int{200}, []string{"a"}},
		"absolute target":               {rawLineOf("POST http://x/ HTTP/1.1"), []int{200}, []string{"a"}},
		"awaited by 100-continue":       {rawPost(rawBody, rawLength, "Expect: 100-continue", rawSigned), []int{100, 200}, []string{"a"}},
		"lines that end in LF":          {strings.ReplaceAll(clean, "\r\n", "\n"), []int{200}, []string{"a"}},
		"signature folded":              {rawPost(rawBody, rawLength, strings.Replace(rawSigned, " ", "\r\n ", 1)), []int{200}, []string{"a"}},
		"the same length twice":         {rawPost(rawBody, rawLength, rawLength, rawSigned), []int{200}, []string{"a"}},
		"length and chunked, chunks":    {rawPost(rawChunks, rawLength, rawChunked, rawSigned), []int{200}, []string{"a"}},
		"an upgrade that nobody offers": {rawPost(rawBody, rawLength, "Connection: Upgrade", "Upgrade: h2c", rawSigned), []int{200}, []string{"a"}},

		"pipelined":                      {post("a") + chunked("b") + post("c") + chunked("d"), []int{200, 200, 200, 200}, []string{"a", "b", "c", "d"}},
		"pipelined and closed":           {post("a") + strings.Replace(post("b"), "Host", "Connection: close\r\nHost", 1) + post("c"), []int{200, 200}, []string{"a", "b"}},
		"pipelined with a forged one":    {post("a") + rawAnother + chunked("b"), []int{200, 400, 200}, []string{"a", "b"}},
		"pipelined with an unsigned one": {post("a") + rawPost(rawBody, rawLength) + post("b"), []int{200, 400, 200}, []string{"a", "b"}},
		"pipelined with a malformed one": {post("a") + rawPost(rawChunks, rawChunked, rawChunked, rawSigned) + post("b"), []int{200, 501}, []string{"a"}},
		"followed by rubbish":            {post("a") + "rubbish\r\n\r\n", []int{200, 400}, []string{"a"}},
		"a signed body that looks like a request": {rawPost("["+rawAnother, fmt.Sprintf("Content-Length: %d", len("["+rawAnother)),
			mw.SignatureHeader+": "+directSignature([]byte("["+rawAnother), testSecret)) + post("b"), []int{422, 200}, []string{"b"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rig := newRig(t, &mw.Handler{}).serve()
			require.Equal(t, test.want, rig.exchange(test.text))
			require.Equal(t, test.handled, rig.handled())
			rig.requireCalm()
		})
	}
}

// A client that waits for 100 Continue is not asked for a refused body.
func TestUnsignedBodyIsNotAskedFor(t *testing.T) {
	t.Parallel()
	rig := newRig(t, &mw.Handler{}).serve()
	require.Equal(t, []int{400}, rig.exchange(rawPost("", rawLength, "Expect: 100-continue")))
	require.Equal(t, []int{413}, rig.exchange(rawPost("", "Content-Length: 999999999", "Expect: 100-continue", rawSigned)))
	require.Equal(t, []int{400}, rig.exchange(rawPost("", rawLength, "Expect: 100-continue", rawSigned, rawSigned)))
	rig.requireCalm()
}

func TestHTTP2IsServed(t *testing.T) {
	t.Parallel()
	rig := newRig(t, &mw.Handler{}).serve(func(srv *httptest.Server) { srv.EnableHTTP2 = true })
	inTrailer := func(r *http.Request) {
		inChunks(r)
		r.Trailer = http.Header{mw.SignatureHeader: r.Header[mw.SignatureHeader]}
		r.Header.Del(mw.SignatureHeader)
	}
	for _, test := range []struct {
		name string
		edit requestEdit
		want int
	}{
		{"signed", func(*http.Request) {}, 200},
		{"signed, of unknown length", inChunks, 200},
		{"forged", withForgery, 400},
		{"unsigned", withoutSignature, 400},
		{"signed in a trailer", inTrailer, 400},
		{"signed twice", withHeader(mw.SignatureHeader, rawDigits, rawDigits), 400},
		{"signed in a list", withHeader(mw.SignatureHeader, rawDigits+","+rawDigits), 400},
		{"GET", withMethod(http.MethodGet), 405},
	} {
		before := len(rig.handled())
		got := rig.post([]byte(rawBody), test.edit)
		require.Equal(t, 2, got.Proto, test.name)
		require.Equal(t, test.want, got.Status, test.name)
		require.Equal(t, test.want == 200, len(rig.handled()) > before, test.name)
	}
	rig.requireCalm()
}

// However two signed requests are damaged, a callback gets a whole signed body
// or none.
func TestDamagedHTTPDeliversSignedBodiesOnly(t *testing.T) {
	t.Parallel()
	const seed = 9112
	total := 400
	if fullSize() {
		total = 50_000
	}
	signed := []string{rawBody, string(bodyOf("b", "c"))}
	var delivered, strange atomic.Int64
	rig := newRig(t, &mw.Handler{OnDelivery: func(_ context.Context, d *mw.Delivery) error {
		delivered.Add(1)
		if !slices.Contains(signed, string(d.Body)) {
			strange.Add(1)
		}
		return nil
	}}).serve()
	texts := []string{
		rawPost(signed[0], rawLength, rawSigned) +
			rawPost(rawChunk(signed[1][:9])+rawChunk(signed[1][9:])+rawEnd, rawChunked,
				mw.SignatureHeader+": "+directSignature([]byte(signed[1]), testSecret)),
		rawPost(rawChunks, rawChunked, rawSigned) + rawAnother,
	}
	pieces := []string{"\r\n", "\n", "\r", " ", "\t", "\x00", ":", "0", "0\r\n\r\n", "1", "f", ";", ",", "\r\n ", rawLength + "\r\n",
		rawChunked + "\r\n", rawSigned + "\r\n", rawForged + "\r\n", "Content-Length: 0\r\n", rawLine + "\r\n", "é", "{", "}"}
	damage := func(random *rand.Rand, text string) string {
		for range 1 + random.IntN(3) {
			from := random.IntN(len(text))
			to := min(len(text), from+random.IntN(4))
			if random.IntN(8) == 0 {
				to = min(len(text), from+random.IntN(200))
			}
			put := pieces[random.IntN(len(pieces))]
			switch random.IntN(3) {
			case 0:
				put = ""
			case 1:
				put = string([]byte{text[from] ^ 1<<random.IntN(8)})
			}
			text = text[:from] + put + text[to:]
		}
		return text
	}
	for i := range total {
		random := rand.New(rand.NewPCG(seed, uint64(i)))
		text := damage(random, texts[random.IntN(len(texts))])
		before := delivered.Load()
		served := int64(0)
		for _, status := range rig.exchange(text) {
			if status == http.StatusOK {
				served++
			}
		}
		require.Zero(t, strange.Load(), "damage %d: %q", i, text)
		require.Equal(t, served, delivered.Load()-before, "damage %d: %q", i, text)
	}
	t.Logf("%d requests of %d damaged pairs were delivered all the same", delivered.Load(), total)
	require.Positive(t, delivered.Load())
	require.Less(t, delivered.Load(), int64(2*total))
	rig.requireCalm()
}
