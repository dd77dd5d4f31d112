package main

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"hash"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/mailtrapwebhook/mailtrapwebhook"
)

// bodyPiece is the piece in which the Handler charges a body to
// MaxInFlightBytes.
const bodyPiece = 64 << 10

// A body is the body of a request as the Handler reads it. It measures the
// memory that the body takes, and finds the webhook that sent it.
type body struct {
	io.ReadCloser
	signature string
	inFlight  prometheus.Gauge
	size      int
	charged   int
	macs      []hash.Hash // of what was read, one for each secret
}

// watchBodies watches the bodies of requests. The secrets are those of the
// Handler's Verifier, in their order. Each costs a request one more HMAC.
func watchBodies(inFlight prometheus.Gauge, secrets []string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b := &body{
			ReadCloser: r.Body,
			signature:  r.Header.Get(mailtrapwebhook.SignatureHeader),
			inFlight:   inFlight,
		}
		for _, secret := range secrets {
			b.macs = append(b.macs, hmac.New(sha256.New, []byte(strings.TrimSpace(secret))))
		}
		defer func() { inFlight.Sub(float64(b.charged)) }()
		r = r.WithContext(context.WithValue(r.Context(), bodyKey{}, b))
		if r.Body != http.NoBody { // the Handler must see that there is none
			r.Body = b
		}
		next.ServeHTTP(w, r)
	})
}

type bodyKey struct{}

func (b *body) Read(p []byte) (int, error) {
	charge := (b.size/bodyPiece + 1) * bodyPiece
	b.inFlight.Add(float64(charge - b.charged))
	b.charged = charge
	n, err := b.ReadCloser.Read(p)
	b.size += n
	for _, mac := range b.macs {
		mac.Write(p[:n])
	}
	return n, err
}

// webhookOf returns which webhook sent a request, as the value of a label: the
// place of the secret that signed its body, as Delivery.SecretIndex has it. A
// Report does not have it, and OnEvent gets no Delivery. The label decides
// nothing: the Handler has checked the signature.
func webhookOf(ctx context.Context) string {
	b, ok := ctx.Value(bodyKey{}).(*body)
	if !ok || b.size == 0 {
		return notVerified
	}
	signature, _ := hex.DecodeString(b.signature)
	for i, mac := range b.macs {
		if hmac.Equal(mac.Sum(nil), signature) {
			return strconv.Itoa(i)
		}
	}
	return notVerified
}
