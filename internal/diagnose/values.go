package diagnose

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"unicode"
)

// keyVariants returns the keys that the secrets may stand for. The secrets as
// given come first, so that a list with the right secret is never explained by a
// change to another one.
func keyVariants(secrets []string) []variant {
	var asGiven, changed []variant
	for i, secret := range secrets {
		name := secretName(i, len(secrets))
		all := variants([]byte(strings.TrimSpace(secret)), secretWrappings(name), secretSpellings(name))
		asGiven = append(asGiven, all[0])
		changed = append(changed, all[1:]...)
	}
	return append(asGiven, changed...)
}

// secretName identifies a secret without showing it.
func secretName(i, n int) string {
	if n == 1 {
		return "the secret"
	}
	return fmt.Sprintf("secret %d of %d", i+1, n)
}

func secretWrappings(name string) []change {
	return []change{
		{finding{
			name + " has invisible characters around it",
			"type the secret in, or copy it from Mailtrap again without what stands around it",
		}, trimInvisible},
		{finding{name + " has quotes around it", "store the secret without quotes"}, trimQuotes},
	}
}

func secretSpellings(name string) []change {
	const copyAgain = "copy the secret again exactly as Mailtrap shows it"
	return []change{
		{finding{name + " was put into upper case", copyAgain}, bytes.ToLower},
		{finding{name + " was put into lower case", copyAgain}, bytes.ToUpper},
		{finding{
			"the signature was made with the bytes that the hexadecimal digits of " + name + " spell",
			"sign with the secret as text, not with its decoded bytes",
		}, fromHex},
	}
}

func trimInvisible(b []byte) []byte { return bytes.TrimFunc(b, isInvisible) }

func trimQuotes(b []byte) []byte {
	return bytes.TrimFunc(b, func(r rune) bool { return isInvisible(r) || strings.ContainsRune("\"'`“”‘’", r) })
}

// isInvisible holds for what comes along when text is copied from a page: white
// space, byte-order marks, zero-width spaces and control characters.
func isInvisible(r rune) bool { return unicode.IsSpace(r) || !unicode.IsGraphic(r) }

func fromHex(b []byte) []byte {
	decoded, err := hex.DecodeString(string(b))
	if err != nil {
		return nil
	}
	return decoded
}

// digestVariants returns the digests that the signature may stand for.
func digestVariants(header, signature string) []variant {
	fix := passPlain(header)
	inBase64 := finding{"the signature is in base64 instead of hexadecimal digits", fix}
	var digests []variant
	for _, v := range variants([]byte(signature), signatureWrappings(fix), headerLine(header), signaturePrefix(fix)) {
		// 64 hexadecimal digits are valid base64 too, but of 48 bytes.
		if sum := fromHex(v.value); len(sum) == sha256.Size {
			digests = append(digests, variant{sum, v.findings})
		} else if sum := fromBase64(v.value); len(sum) == sha256.Size {
			digests = append(digests, variant{sum, append(v.findings, inBase64)})
		}
	}
	return digests
}

func passPlain(header string) string {
	return "pass the plain value of the " + header + " header, 64 hexadecimal digits"
}

func signatureWrappings(fix string) []change {
	return []change{
		{finding{"the signature has white space around it", fix}, trimInvisible},
		{finding{"the signature has quotes around it", fix}, trimQuotes},
	}
}

func headerLine(header string) []change {
	return []change{{
		finding{"the signature is a whole header line", passPlain(header) + ", without its name"},
		func(line []byte) []byte {
			value, ok := headerValue(header, line)
			if !ok {
				return nil
			}
			return value
		},
	}}
}

// headerValue returns the value of a header line such as Mailtrap-Signature: 6d26
// or HTTP_MAILTRAP_SIGNATURE=6d26, and whether line is one.
func headerValue(header string, line []byte) (value []byte, ok bool) {
	i := bytes.IndexAny(line, ":=")
	if i < 0 {
		return nil, false
	}
	name := strings.ReplaceAll(string(trimQuotes(line[:i])), "_", "-")
	// A suffix, since CGI writes HTTP_ before it and older pages X-.
	ok = strings.HasSuffix(strings.ToLower(name), strings.ToLower(header))
	return trimQuotes(line[i+1:]), ok
}

func signaturePrefix(fix string) []change {
	const prefix = "sha256="
	return []change{{
		finding{"the signature begins with sha256=, which Mailtrap's does not", fix},
		func(b []byte) []byte {
			if len(b) < len(prefix) || !strings.EqualFold(string(b[:len(prefix)]), prefix) {
				return nil
			}
			return b[len(prefix):]
		},
	}}
}
