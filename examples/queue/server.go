package main

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/gofrs/flock"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// lockDir locks the directory against other programs. Two servers in one
// directory would overwrite each other's events and not notice.
func lockDir(dir string) (*flock.Flock, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("-dir is no directory and cannot be made: %w", err)
	}
	lock := flock.New(filepath.Join(dir, "lock"))
	locked, err := lock.TryLock()
	switch {
	case err != nil:
		return nil, fmt.Errorf("cannot lock %s: %w", dir, err)
	case !locked:
		return nil, fmt.Errorf("another process uses %s: end it first, or give each process its own -dir, or all of them the same -nats", dir)
	}
	return lock, nil
}

// startServer starts a NATS server inside the program. Nobody else can connect
// to it.
func startServer(dir string, logger *slog.Logger) (*server.Server, error) {
	s, err := server.NewServer(&server.Options{
		ServerName: "queue",
		DontListen: true,
		NoSigs:     true, // main handles signals
		MaxPayload: maxPayload,
		JetStream:  true,
		StoreDir:   dir,
		// Write each event to the disk before acknowledging it. By default the
		// server waits up to two minutes, and a loss of power loses events that
		// no other server has. With -nats, the servers have the same setting,
		// sync_always. They need it if one loss of power can hit most of them.
		SyncAlways: true,
		// The stream has its own limit. The default here is a share of the free
		// disk, which shrinks at each start as the stream grows.
		JetStreamMaxStore: math.MaxInt64,
	})
	if err != nil {
		return nil, fmt.Errorf("cannot start the server: %w", err)
	}
	s.SetLoggerV2(serverLog{logger}, false, false, false)
	s.Start() // returns after reading the directory
	if !s.ReadyForConnections(time.Second) {
		s.Shutdown()
		return nil, fmt.Errorf("the server did not start in %s: see the log for the reason", dir)
	}
	return s, nil
}

// A serverLog logs for the server inside the program. The server logs nothing
// of its messages.
type serverLog struct{ *slog.Logger }

func (l serverLog) Noticef(format string, v ...any) { l.Debug("nats: " + fmt.Sprintf(format, v...)) }
func (l serverLog) Warnf(format string, v ...any)   { l.Warn("nats: " + fmt.Sprintf(format, v...)) }
func (l serverLog) Errorf(format string, v ...any)  { l.Error("nats: " + fmt.Sprintf(format, v...)) }
func (l serverLog) Fatalf(format string, v ...any)  { l.Error("nats: " + fmt.Sprintf(format, v...)) }
func (l serverLog) Debugf(string, ...any)           {}
func (l serverLog) Tracef(string, ...any)           {}

// servers says where the servers are and how to get in. Without URLs it means
// the server inside the program.
type servers struct {
	urls        string
	credentials string // a file, as nsc writes it
	ca          string // a file of certificates to trust
	cert, key   string // files for servers that ask for the program's certificate
}

// connect connects to the server inside the program. If inside is nil, connect
// connects to the servers with the URLs.
func connect(to servers, inside *server.Server, logger *slog.Logger) (*nats.Conn, error) {
	options := []nats.Option{
		nats.Name("mailtrap queue"),
		nats.MaxReconnects(-1),
		// Without a connection, fail at once: Mailtrap sends the delivery
		// again. Otherwise messages wait in memory for the next connection, and
		// by then nobody waits for their acknowledgements.
		nats.ReconnectBufSize(-1),
		nats.Timeout(publishTimeout), // for each server; a busy machine may need the default of 2 s
		// Notice within half a minute, not six, that a server has gone
		// silently.
		nats.PingInterval(10 * time.Second),
		nats.FlusherTimeout(publishTimeout),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				logger.Warn("nats: disconnected", "error", err)
			}
		}),
		nats.ReconnectHandler(func(*nats.Conn) { logger.Info("nats: reconnected") }),
	}
	if inside != nil {
		options = append(options, nats.InProcessServer(inside))
	}
	if to.credentials != "" {
		options = append(options, nats.UserCredentials(to.credentials))
	}
	if to.ca != "" {
		options = append(options, nats.RootCAs(to.ca))
	}
	if to.cert != "" {
		options = append(options, nats.ClientCert(to.cert, to.key))
	}
	conn, err := nats.Connect(to.urls, options...)
	if malformed := (*url.Error)(nil); errors.As(err, &malformed) {
		return nil, errors.New("-nats is no list of URLs: write it as nats://host:4222") // err quotes the URL with its password
	}
	if err != nil {
		return nil, fmt.Errorf("cannot connect to NATS: %w", err)
	}
	return conn, nil
}
