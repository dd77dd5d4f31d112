package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nkeys"
	"github.com/stretchr/testify/require"
)

// startInside starts a NATS server in this process until the test ends and
// returns its URL.
func startInside(t *testing.T, opts *server.Options) string {
	t.Helper()
	opts.Host, opts.Port, opts.JetStream, opts.StoreDir, opts.NoSigs = "127.0.0.1", -1, true, t.TempDir(), true
	s, err := server.NewServer(opts)
	require.NoError(t, err)
	s.Start()
	t.Cleanup(func() {
		s.Shutdown()
		s.WaitForShutdown()
	})
	require.True(t, s.ReadyForConnections(patience))
	return s.ClientURL()
}

// withUser returns a URL with the credentials of a user.
func withUser(url, user string) string { return "nats://" + user + ":pw@" + url[len("nats://"):] }

// An account may not change streams, but an administrator has made them.
func TestAccountThatMayNotChangeStreams(t *testing.T) {
	denied := &server.Permissions{Publish: &server.SubjectPermission{
		Allow: []string{">"}, Deny: []string{"$JS.API.STREAM.CREATE.*", "$JS.API.STREAM.UPDATE.*"},
	}}
	url := startInside(t, &server.Options{Users: []*server.User{
		{Username: "admin", Password: "pw"}, {Username: "limited", Password: "pw", Permissions: denied},
	}})
	opts := options{replicas: 1, maxBytes: clusterMaxBytes}
	open := func(user string, opts options) error {
		opts.nats.urls = withUser(url, user)
		q, err := openQueue(t.Context(), opts, slog.New(slog.DiscardHandler))
		if err == nil {
			q.close()
		}
		return err
	}

	started := time.Now()
	err := open("limited", opts)
	require.ErrorContains(t, err, `"$JS.API.STREAM.CREATE.MAILTRAP"`)
	require.ErrorContains(t, err, "allow the account this subject, or let an administrator make the stream")

	require.NoError(t, open("admin", opts))
	require.NoError(t, open("limited", opts))

	opts.maxBytes++
	err = open("limited", opts)
	require.ErrorContains(t, err, `"$JS.API.STREAM.UPDATE.MAILTRAP"`)
	require.ErrorContains(t, err, "let an administrator set its max_bytes, or start with the -replicas and -max-bytes that it has")
	require.Less(t, time.Since(started), openTimeout, "the program waited for an answer that never comes")
}

func TestAccountThatMayNotMakeConsumers(t *testing.T) {
	url := startInside(t, &server.Options{Users: []*server.User{{
		Username: "limited", Password: "pw", Permissions: &server.Permissions{Publish: &server.SubjectPermission{
			Allow: []string{">"}, Deny: []string{"$JS.API.CONSUMER.>"},
		}},
	}}})
	q := openTestQueue(t, options{nats: servers{urls: withUser(url, "limited")}, replicas: 1, maxBytes: clusterMaxBytes})
	_, err := q.consumer(t.Context(), q.stream, ackWait)
	require.ErrorContains(t, err, `"$JS.API.CONSUMER.CREATE.MAILTRAP.worker"`)
}

func TestServersWithoutJetStream(t *testing.T) {
	opts := &server.Options{Host: "127.0.0.1", Port: -1, NoSigs: true}
	s, err := server.NewServer(opts)
	require.NoError(t, err)
	s.Start()
	defer s.Shutdown()
	require.True(t, s.ReadyForConnections(patience))
	_, err = openQueue(t.Context(), options{nats: servers{urls: s.ClientURL()}, replicas: 1, maxBytes: 1}, slog.New(slog.DiscardHandler))
	require.ErrorContains(t, err, "enable JetStream")
}

func TestStreamThatDoesNotFitGetsAHint(t *testing.T) {
	url := startInside(t, &server.Options{JetStreamMaxStore: 1 << 20})
	_, err := openQueue(t.Context(), options{nats: servers{urls: url}, replicas: 1, maxBytes: 1 << 30}, slog.New(slog.DiscardHandler))
	require.ErrorContains(t, err, "room for -max-bytes")
}

// The program authenticates with a credentials file, as nsc writes it, and with
// a certificate, and it trusts a server's certificate by its authority.
func TestCredentialsAndCertificates(t *testing.T) {
	dir := t.TempDir()
	authority := newAuthority(t)
	serverCert, _ := authority.issue(t, dir, "server")
	_, clientFiles := authority.issue(t, dir, "client")
	ca := filepath.Join(dir, "ca.pem")
	writePEM(t, ca, "CERTIFICATE", authority.cert.Raw)
	operator, system, resolver, creds := newAccount(t, dir)
	pool := x509.NewCertPool()
	pool.AddCert(authority.cert)
	url := startInside(t, &server.Options{
		TrustedOperators: []*jwt.OperatorClaims{operator}, AccountResolver: resolver, SystemAccount: system,
		TLSConfig: &tls.Config{
			Certificates: []tls.Certificate{serverCert}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert,
		},
	})
	all := []string{"-nats", url, "-creds", creds, "-tls-ca", ca, "-tls-cert", clientFiles[0], "-tls-key", clientFiles[1]}
	program := startProgram(t, append(all, "-max-bytes", "1000000")...)
	require.Equal(t, http.StatusOK, post(t, program.address, envelope(bounce("m-1")), testSecret))
	program.waitForEvents(t, 1)
	require.Equal(t, exitOK, program.end(t), program.logs)

	for i, flag := range []string{"-creds", "-tls-ca", "-tls-cert"} {
		without := append([]string{}, all[:2+2*i]...)
		rest := all[4+2*i:]
		if flag == "-tls-cert" {
			rest = nil
		}
		var stderr syncBuffer
		args := append(append(without, rest...), "-dead")
		require.Equal(t, exitFailure, run(t.Context(), args, environment(testSecret), io.Discard, &stderr), "without %s", flag)
		require.Contains(t, stderr.String(), "cannot connect to NATS", flag)
	}
}

// newAccount makes an operator with an account that has JetStream, and writes
// the credentials of a user.
func newAccount(t *testing.T, dir string) (
	_ *jwt.OperatorClaims, system string, _ server.AccountResolver, creds string,
) {
	t.Helper()
	newKey := func(create func() (nkeys.KeyPair, error)) (nkeys.KeyPair, string) {
		key, err := create()
		require.NoError(t, err)
		public, err := key.PublicKey()
		require.NoError(t, err)
		return key, public
	}
	operatorKey, operatorID := newKey(nkeys.CreateOperator)
	accountKey, accountID := newKey(nkeys.CreateAccount)
	_, systemID := newKey(nkeys.CreateAccount)
	userKey, userID := newKey(nkeys.CreateUser)

	operator := jwt.NewOperatorClaims(operatorID)
	operator.SystemAccount = systemID
	text, err := operator.Encode(operatorKey)
	require.NoError(t, err)
	operator, err = jwt.DecodeOperatorClaims(text)
	require.NoError(t, err)
	resolver := new(server.MemAccResolver)
	account := jwt.NewAccountClaims(accountID)
	account.Limits.JetStreamLimits.DiskStorage = -1
	account.Limits.JetStreamLimits.Streams = -1
	account.Limits.JetStreamLimits.Consumer = -1
	for _, claims := range []*jwt.AccountClaims{account, jwt.NewAccountClaims(systemID)} {
		text, err := claims.Encode(operatorKey)
		require.NoError(t, err)
		require.NoError(t, resolver.Store(claims.Subject, text))
	}
	text, err = jwt.NewUserClaims(userID).Encode(accountKey)
	require.NoError(t, err)
	seed, err := userKey.Seed()
	require.NoError(t, err)
	config, err := jwt.FormatUserConfig(text, seed)
	require.NoError(t, err)
	creds = filepath.Join(dir, "user.creds")
	require.NoError(t, os.WriteFile(creds, config, 0o600))
	return operator, systemID, resolver, creds
}

// An authority issues certificates for 127.0.0.1.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	require.NoError(t, err)
	cert, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	return &authority{cert, key}
}

// issue writes a certificate and its key to files, and returns both.
func (a *authority) issue(t *testing.T, dir, name string) (_ tls.Certificate, files [2]string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	require.NoError(t, err)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	files = [2]string{filepath.Join(dir, name+".pem"), filepath.Join(dir, name+"-key.pem")}
	writePEM(t, files[0], "CERTIFICATE", der)
	writePEM(t, files[1], "PRIVATE KEY", pkcs8)
	cert, err := tls.LoadX509KeyPair(files[0], files[1])
	require.NoError(t, err)
	return cert, files
}

func writePEM(t *testing.T, file, kind string, der []byte) {
	t.Helper()
	text := pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
	require.NoError(t, os.WriteFile(file, text, 0o600))
}
