package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// An info says how the inspector was started.
type info struct {
	Version string   `json:"version"`
	Webhook string   `json:"webhook"`
	Secrets int      `json:"secrets"`
	Forward string   `json:"forward"`
	Dir     string   `json:"dir"`
	Kinds   []string `json:"kinds"`
	Faults  []string `json:"faults"`
}

func newInfo(opts listenOptions, addr net.Addr) info {
	i := info{
		Version: version(),
		Webhook: baseURL(addr) + webhookPath,
		Secrets: len(opts.secrets),
		Dir:     opts.dir,
		Kinds:   sampleKinds(),
		Faults:  faultNames(),
	}
	if opts.forward != nil {
		// A password or a token is nobody's business.
		shown := *opts.forward
		shown.User, shown.RawQuery = nil, ""
		i.Forward = shown.String()
	}
	return i
}

func (in *inspector) addAPI(mux *http.ServeMux) {
	mux.HandleFunc("GET /api/deliveries", in.getDeliveries)
	mux.HandleFunc("GET /api/deliveries/{id}", in.withDelivery(in.getDelivery))
	mux.HandleFunc("GET /api/deliveries/{id}/body", in.withDelivery(in.getBody))
	mux.HandleFunc("GET /api/deliveries/{id}/capture", in.withDelivery(in.getCapture))
	mux.HandleFunc("POST /api/deliveries/{id}/replay", in.withDelivery(in.postReplay))
	mux.HandleFunc("POST /api/send", in.postSend)
	mux.HandleFunc("GET /api/stream", in.stream)
	mux.HandleFunc("GET /api/info", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, in.info)
	})
	mux.HandleFunc("/api/", func(w http.ResponseWriter, _ *http.Request) {
		writeError(w, &refusal{http.StatusNotFound, "the API has no such path or method: see the README"})
	})
}

func writeJSON(w http.ResponseWriter, status int, value any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(value) // an error means that the client is gone
}

func writeError(w http.ResponseWriter, err error) {
	status := http.StatusInternalServerError
	if refused, ok := errors.AsType[*refusal](err); ok {
		status = refused.status
	}
	writeJSON(w, status, map[string]string{"error": err.Error()})
}

func badRequest(format string, args ...any) error {
	return &refusal{http.StatusBadRequest, fmt.Sprintf(format, args...)}
}

// withDelivery returns a handler that looks the delivery up.
func (in *inspector) withDelivery(do func(http.ResponseWriter, *http.Request, *delivery)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		id, err := strconv.Atoi(r.PathValue("id"))
		d := in.store.get(id)
		if err != nil || d == nil {
			writeError(w, &refusal{http.StatusNotFound, "there is no such delivery: memory keeps the newest 64 MiB"})
			return
		}
		do(w, r, d)
	}
}

// timeFormat is that of RFC 3339 with all three digits of the milliseconds, so
// that times sort as text.
const timeFormat = "2006-01-02T15:04:05.000Z07:00"

// A summary is a delivery in the list.
type summary struct {
	ID         string         `json:"id"`
	ReceivedAt string         `json:"receivedAt"`
	Source     string         `json:"source"`
	ReplayOf   string         `json:"replayOf,omitempty"`
	Verified   string         `json:"verified"`
	Verdict    string         `json:"verdict"`
	Format     string         `json:"format"`
	Bytes      int            `json:"bytes"`
	Events     int            `json:"events"`
	Kinds      map[string]int `json:"kinds"`
	Odd        int            `json:"odd"`
	Status     int            `json:"status"`
	DurationMS float64        `json:"durationMs"`
	Error      string         `json:"error"`
	Forwarded  bool           `json:"forwarded"`
}

func summaryOf(d *delivery) summary {
	s := summary{
		ID:         strconv.Itoa(d.id),
		ReceivedAt: d.receivedAt.Format(timeFormat),
		Source:     d.source,
		Verified:   d.verdict.verified,
		Verdict:    d.verdict.text,
		Format:     formatName(d.content.format),
		Bytes:      len(d.body),
		Events:     d.content.events,
		Kinds:      d.content.kinds,
		Odd:        d.content.odd,
		Status:     d.answer.status,
		DurationMS: millis(d.answer.duration),
		Error:      d.answer.err,
		Forwarded:  d.answer.forwarded,
	}
	if d.replayOf != 0 {
		s.ReplayOf = strconv.Itoa(d.replayOf)
	}
	return s
}

// millis returns a duration in milliseconds, to the microsecond.
func millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func (in *inspector) getDeliveries(w http.ResponseWriter, r *http.Request) {
	f, err := parseFilter(r)
	if err != nil {
		writeError(w, err)
		return
	}
	page, total, more := in.store.list(f)
	answer := struct {
		Deliveries []summary `json:"deliveries"`
		More       bool      `json:"more"`
		Total      int       `json:"total"`
	}{[]summary{}, more, total}
	for _, d := range page {
		answer.Deliveries = append(answer.Deliveries, summaryOf(d))
	}
	writeJSON(w, http.StatusOK, answer)
}

const (
	defaultLimit = 100
	maxLimit     = 1000
)

// parseFilter reads the parameters of a list.
func parseFilter(r *http.Request) (f filter, err error) {
	query := r.URL.Query()
	if kinds := query.Get("kind"); kinds != "" {
		f.kinds = strings.Split(kinds, ",")
	}
	f.q = strings.ToLower(query.Get("q"))
	switch f.verified = query.Get("verified"); f.verified {
	case "", verifiedYes, verifiedNo, verifiedUnknown:
	default:
		return f, badRequest("verified is yes, no or unknown")
	}
	if status := query.Get("status"); status == "not200" {
		f.not200 = true
	} else if f.status, err = parseNumber(status, 0, 999); err != nil {
		return f, badRequest("status is a number, or not200")
	}
	if f.since, err = parseTime(query.Get("since")); err != nil {
		return f, badRequest("since is a time such as 2026-11-26T08:00:00Z")
	}
	if f.until, err = parseTime(query.Get("until")); err != nil {
		return f, badRequest("until is a time such as 2026-11-26T08:00:00Z")
	}
	if f.limit, err = parseNumber(query.Get("limit"), defaultLimit, maxLimit); err != nil || f.limit == 0 {
		return f, badRequest("limit is a number from 1 to %d", maxLimit)
	}
	if f.before, err = parseNumber(query.Get("before"), 0, 1<<53); err != nil {
		return f, badRequest("before is the id of a delivery")
	}
	return f, nil
}

// parseTime returns the zero time for "".
func parseTime(text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	return time.Parse(time.RFC3339, text)
}

// parseNumber returns absent for "".
func parseNumber(text string, absent, most int) (int, error) {
	if text == "" {
		return absent, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 || n > most {
		return 0, errors.New("not a number in range")
	}
	return n, nil
}

// A detail is a delivery that is opened.
type detail struct {
	summary
	Fix       string      `json:"fix"`
	Secret    int         `json:"secret"`
	Method    string      `json:"method"`
	Target    string      `json:"target"`
	Remote    string      `json:"remote"`
	Header    [][2]string `json:"header"`
	Fault     *fault      `json:"fault,omitempty"`
	Items     []item      `json:"items"`
	Truncated bool        `json:"truncated,omitempty"`
	Answer    appAnswer   `json:"answer"`
}

// An appAnswer is what the sender was told.
type appAnswer struct {
	Status     int         `json:"status"`
	DurationMS float64     `json:"durationMs"`
	Header     [][2]string `json:"header"`
	Body       string      `json:"body"`
	Cut        bool        `json:"cut,omitempty"`
	Error      string      `json:"error"`
}

func (in *inspector) getDelivery(w http.ResponseWriter, _ *http.Request, d *delivery) {
	items, truncated := itemsOf(d.body)
	writeJSON(w, http.StatusOK, detail{
		summary:   summaryOf(d),
		Fix:       d.verdict.fix,
		Secret:    d.verdict.secret,
		Method:    http.MethodPost,
		Target:    d.target,
		Remote:    d.remote,
		Header:    slices.Concat([][2]string{{"Host", d.host}}, headerLines(d.header)),
		Fault:     newFault(d.content.fault),
		Items:     slices.Concat([]item{}, items),
		Truncated: truncated,
		Answer: appAnswer{
			Status:     d.answer.status,
			DurationMS: millis(d.answer.duration),
			Header:     headerLines(d.answer.header),
			Body:       strings.ToValidUTF8(string(d.answer.body), "\uFFFD"),
			Cut:        d.answer.cut,
			Error:      d.answer.err,
		},
	})
}

func (in *inspector) getBody(w http.ResponseWriter, _ *http.Request, d *delivery) {
	name := fmt.Sprintf("delivery-%d.json", d.id)
	if d.content.format.String() == "JSON Lines" {
		name += "l"
	}
	writeFile(w, name, d.body)
}

func (in *inspector) getCapture(w http.ResponseWriter, _ *http.Request, d *delivery) {
	writeFile(w, d.fileName(), d.capture.bytes())
}

// writeFile answers with a file. No browser may show it: a body can be a page.
func writeFile(w http.ResponseWriter, name string, content []byte) {
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Disposition", fmt.Sprintf("attachment; filename=%q", name))
	w.Header().Set("Content-Length", strconv.Itoa(len(content)))
	_, _ = w.Write(content) // an error means that the client is gone
}

// readJSON reads the body of a request to the API.
func readJSON(w http.ResponseWriter, r *http.Request, dst any) error {
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(10 * time.Second))
	decoder := json.NewDecoder(http.MaxBytesReader(w, r.Body, 64<<10))
	decoder.DisallowUnknownFields()
	err := decoder.Decode(dst)
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return &refusal{http.StatusRequestEntityTooLarge, "the body is over 64 KiB"}
	}
	if err != nil {
		return badRequest("the body is not the JSON that the README describes")
	}
	return nil
}
