package mailtrapwebhook_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	mw "github.com/mailtrapwebhook/mailtrapwebhook"
)

// These tests ask whether the time that a check takes depends on the secret, in the manner of dudect ("Dude, is my code
// constant time?", Reparaz, Balasch and Verbauwhede, 2017): calls of two classes, in random order, and Welch's t-test of
// their times. They need a minute, and are run at full size only, or by hand:
//
//	go test -run '^$' -bench Timing -count 3
//	MAILTRAPWEBHOOK_FULL=1 go test -run TimingTellsNothing -v

const (
	timingSamples = 200_000         // of each class
	timingBatch   = 4               // calls in a sample, since the clock has ticks too
	timingLimit   = 5               // for |t|; by chance alone it is above that a few times in a million
	timingControl = 4 * timingLimit // what the control has to exceed; a quiet machine shows hundreds
)

// A timingCase is a check and two classes of input. prepare sets one up.
type timingCase struct {
	name    string
	prepare func(class int, random *rand.Rand) (call func())
}

func timingCases() []timingCase {
	return []timingCase{
		verifyTiming("first against last wrong digit in Verify", func(body []byte, signature string) bool {
			return mw.Verify(body, signature, fixtureSecret) == nil
		}),
		basicAuthTiming("wrong user against wrong password in BasicAuth",
			[2]string{wrongAt(timingUser, 0), timingUser}, [2]string{timingPassword, wrongAt(timingPassword, 0)}),
		basicAuthTiming("wrong user of the same against one of another length in BasicAuth",
			[2]string{wrongAt(timingUser, 3), timingUser[:5]}, [2]string{timingPassword, timingPassword}),
		queryTokenTiming("wrong token of the same against one of another length in QueryToken",
			[2]string{wrongAt(timingToken, 3), timingToken[:20]}),
		queryTokenTiming("first against last wrong byte in QueryToken",
			[2]string{wrongAt(timingToken, 0), wrongAt(timingToken, 31)}),
	}
}

// controlTiming is what a comparison that ends at the first difference would look like.
func controlTiming() timingCase {
	return verifyTiming("control: first against last wrong digit, compared byte by byte", func(body []byte, signature string) bool {
		h := hmac.New(sha256.New, []byte(fixtureSecret))
		h.Write(body)
		given, err := hex.DecodeString(signature)
		return err == nil && equalBytewise(h.Sum(nil), given)
	})
}

func equalBytewise(a, b []byte) bool {
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

var timingSink bool // so that no call is left out

// verifyTiming compares signatures whose first digit is wrong with those whose last one is.
func verifyTiming(name string, verify func(body []byte, signature string) bool) timingCase {
	body := []byte("{}") // small, so that it is the comparison that counts
	right := directSignature(body, fixtureSecret)
	return timingCase{name, func(class int, random *rand.Rand) func() {
		digits := []byte(right)
		at := class * (len(digits) - 1)
		digits[at] = otherDigit(digits[at], random)
		signature := string(digits)
		return func() { timingSink = verify(body, signature) }
	}}
}

func otherDigit(digit byte, random *rand.Rand) byte {
	const digits = "0123456789abcdef"
	return digits[(strings.IndexByte(digits, digit)+1+random.IntN(15))%16]
}

const (
	timingUser     = "mailtrap-user-16"
	timingPassword = "mailtrap-pass-16"
	timingToken    = "a-token-of-just-thirty-two-bytes"
)

// guardTiming calls guards whose secrets depend on the class. Each sample has a guard of its own, because one may lie
// across cache lines where another does not. The request is always the same: another one may take another time to read,
// which tells whoever sent it nothing. So it is the request that is right, and the guards that differ from it.
func guardTiming(name string, r *http.Request, guardOf func(class int) mw.Guard) timingCase {
	return timingCase{name, func(class int, _ *rand.Rand) func() {
		guard := guardOf(class)
		return func() { timingSink = guard(r) == nil }
	}}
}

func basicAuthTiming(name string, users, passwords [2]string) timingCase {
	r := httptest.NewRequest(http.MethodPost, "/", nil)
	r.SetBasicAuth(timingUser, timingPassword)
	return guardTiming(name, r, func(class int) mw.Guard { return mw.BasicAuth(users[class], passwords[class]) })
}

func queryTokenTiming(name string, tokens [2]string) timingCase {
	r := httptest.NewRequest(http.MethodPost, "/?token="+timingToken, nil)
	return guardTiming(name, r, func(class int) mw.Guard { return mw.QueryToken("token", tokens[class]) })
}

func wrongAt(s string, i int) string { return s[:i] + "X" + s[i+1:] }

// measure times samples of each class on one thread, in random order.
func (c timingCase) measure(seed uint64) (times [2][]float64) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	random := rand.New(rand.NewPCG(seed, 0))
	for class := range times {
		times[class] = make([]float64, 0, timingSamples+timingSamples/50)
	}
	for i := 0; min(len(times[0]), len(times[1])) < timingSamples; i++ {
		// Both are prepared, in either order, so that no trace of it in caches and predictors goes with the class.
		var calls [2]func()
		first, class := random.IntN(2), random.IntN(2)
		calls[first] = c.prepare(first, random)
		calls[1-first] = c.prepare(1-first, random)
		call := calls[class]
		call()
		start := time.Now()
		for range timingBatch {
			call()
		}
		took := time.Since(start)
		if i >= 1000 { // caches and branch predictors are warm
			times[class] = append(times[class], float64(took))
		}
	}
	return times
}

// croppedT is the t of the greatest amount among those of all times and of those below some percentiles. The long times are
// mostly interruptions, which hide a small difference.
func croppedT(times [2][]float64) (greatest float64) {
	all := slices.Sorted(slices.Values(slices.Concat(times[0], times[1])))
	for _, percentile := range []float64{100, 99.9, 99, 95, 90, 75, 50} {
		limit := all[int(math.Ceil(percentile/100*float64(len(all))))-1]
		below := func(list []float64) []float64 {
			return slices.DeleteFunc(slices.Clone(list), func(x float64) bool { return x > limit })
		}
		if t := welchT(below(times[0]), below(times[1])); math.Abs(t) > math.Abs(greatest) {
			greatest = t
		}
	}
	return greatest
}

// welchT is the t statistic of Welch's test of whether two samples have the same mean.
func welchT(x, y []float64) float64 {
	meanX, varianceX := meanAndVariance(x)
	meanY, varianceY := meanAndVariance(y)
	if meanX == meanY {
		return 0
	}
	return (meanX - meanY) / math.Sqrt(varianceX/float64(len(x))+varianceY/float64(len(y)))
}

// meanAndVariance returns the mean of a sample and the variance that it lets one expect of what it was drawn from.
func meanAndVariance(x []float64) (mean, variance float64) {
	for _, value := range x {
		mean += value / float64(len(x))
	}
	for _, value := range x {
		variance += (value - mean) * (value - mean) / float64(len(x)-1)
	}
	return mean, variance
}

func TestWelchT(t *testing.T) {
	tests := []struct {
		name string
		x, y []float64
		want float64
	}{
		// t = (3-6) / sqrt(2.5/5 + 10/5)
		{"by hand", []float64{1, 2, 3, 4, 5}, []float64{2, 4, 6, 8, 10}, -3 / math.Sqrt(2.5)},
		{"the other way round", []float64{2, 4, 6, 8, 10}, []float64{1, 2, 3, 4, 5}, 3 / math.Sqrt(2.5)},
		// (2-6) / sqrt(2/2 + 4/3)
		{"of different sizes", []float64{1, 3}, []float64{4, 6, 8}, -4 / math.Sqrt(1+4.0/3)},
		{"of the same mean", []float64{1, 3}, []float64{0, 2, 4}, 0},
		{"without variance", []float64{1, 1}, []float64{2, 2}, math.Inf(-1)},
		{"all equal", []float64{1, 1}, []float64{1, 1}, 0},
		{"Student's sleep data, by R's t.test", []float64{0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0},
			[]float64{1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4}, -1.860813467486853},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got := welchT(test.x, test.y)
			if !math.IsInf(test.want, 0) {
				require.InDelta(t, test.want, got, 1e-12)
			} else {
				require.Equal(t, test.want, got)
			}
		})
	}
}

// The crops find a small difference behind rare and long interruptions, and none where there is none.
func TestCroppedT(t *testing.T) {
	sample := func(shift, interruptions float64) (times [2][]float64) {
		random := rand.New(rand.NewPCG(1, 2))
		for i := range 100_000 {
			x := 1000 + 20*random.NormFloat64() + shift*float64(i%2)
			if random.Float64() < interruptions {
				x += 1e6 * random.ExpFloat64()
			}
			times[i%2] = append(times[i%2], math.Round(x))
		}
		return times
	}
	require.Less(t, math.Abs(croppedT(sample(0, 0))), float64(timingLimit))
	require.Less(t, math.Abs(croppedT(sample(0, 0.005))), float64(timingLimit))
	require.InDelta(t, -2/(20*math.Sqrt(2.0/50_000)), croppedT(sample(2, 0)), 3)
	hidden := sample(2, 0.005)
	require.Less(t, math.Abs(welchT(hidden[0], hidden[1])), float64(timingLimit))
	require.Less(t, croppedT(hidden), -float64(timingLimit))
}

// BenchmarkTiming reports t for each case, of several rounds the greatest. One round takes about a second, whatever -benchtime is.
func BenchmarkTiming(b *testing.B) {
	for _, c := range append(timingCases(), controlTiming()) {
		b.Run(c.name, func(b *testing.B) {
			var greatest float64
			for b.Loop() {
				t := croppedT(c.measure(uint64(time.Now().UnixNano())))
				if math.Abs(t) > math.Abs(greatest) {
					greatest = t
				}
			}
			b.ReportMetric(greatest, "t")
			b.ReportMetric(0, "ns/op") // left out
		})
	}
}

func TestTimingTellsNothing(t *testing.T) {
	if !fullSize() {
		t.Skip("takes a minute: set MAILTRAPWEBHOOK_FULL=1")
	}
	for run := range uint64(3) {
		// Other programs on the machine hide the control for a while.
		var got float64
		for range 10 {
			got = croppedT(controlTiming().measure(run))
			t.Logf("run %d: t = %8.2f  %s", run, got, controlTiming().name)
			if math.Abs(got) > timingControl {
				break
			}
		}
		require.Greater(t, math.Abs(got), float64(timingControl), "this machine is too noisy to see anything")
		for _, c := range timingCases() {
			t.Run(fmt.Sprintf("%s/%d", c.name, run), func(t *testing.T) {
				got := croppedT(c.measure(run))
				t.Logf("run %d: t = %8.2f  %s", run, got, c.name)
				require.Less(t, math.Abs(got), float64(timingLimit))
			})
		}
	}
}
