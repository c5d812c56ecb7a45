// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package web

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	toolkit "github.com/prometheus/exporter-toolkit/web"
)

// logCounts counts log lines.
type logCounts struct {
	slog.Handler
	errors, infos, advice atomic.Int64
}

func (*logCounts) Enabled(context.Context, slog.Level) bool { return true }

func (c *logCounts) Handle(_ context.Context, r slog.Record) error {
	switch r.Level {
	case slog.LevelError:
		c.errors.Add(1)
	case slog.LevelInfo:
		c.infos.Add(1)
	}
	if strings.Contains(r.Message, "raise LimitNOFILE") {
		c.advice.Add(1)
	}
	return nil
}

// TestShortage tests that a shortage is logged once until it is over.
func TestShortage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var logged logCounts
		s := NewShortage(slog.New(&logged))
		expect := func(errors, infos int64) {
			t.Helper()
			synctest.Wait()
			if logged.errors.Load() != errors || logged.advice.Load() != errors || logged.infos.Load() != infos {
				t.Errorf("%d errors, %d with advice, %d ends; want %d and %d",
					logged.errors.Load(), logged.advice.Load(), logged.infos.Load(), errors, infos)
			}
		}
		time.Sleep(2 * shortageQuiet)
		expect(0, 0)
		for before := range int64(2) {
			for range 10 {
				for range 100 {
					go s.Report()
				}
				time.Sleep(shortageQuiet - time.Second)
				expect(before+1, before)
			}
			time.Sleep(2 * time.Second)
			expect(before+1, before+1)
		}
	})
}

// exhaustedListener has no descriptors for the first connections.
type exhaustedListener struct{ failures int }

func (*exhaustedListener) Close() error   { return nil }
func (*exhaustedListener) Addr() net.Addr { return &net.TCPAddr{} }

func (l *exhaustedListener) Accept() (net.Conn, error) {
	if l.failures--; l.failures >= 0 {
		return nil, &net.OpError{Op: "accept", Net: "tcp", Err: os.NewSyscallError("accept4", syscall.EMFILE)}
	}
	return nil, net.ErrClosed
}

// TestAcceptWithoutDescriptors tests that a listener that cannot accept connections reports it, and that what clients
// send does not.
func TestAcceptWithoutDescriptors(t *testing.T) {
	t.Parallel()
	reports, no := 0, false
	servers := newListeners(t.Context(), &Options{
		Flags:              &toolkit.FlagConfig{WebSystemdSocket: &no, WebListenAddresses: &[]string{""}},
		Handler:            http.NotFoundHandler(),
		OnOutOfDescriptors: func() { reports++ },
		Logger:             slog.New(slog.DiscardHandler),
	})
	server := servers[0].server
	server.ErrorLog.Print("http: URL query contains too many open files")
	if reports != 0 {
		t.Error("a client's text was reported")
	}
	if err := server.Serve(&exhaustedListener{failures: 3}); err != net.ErrClosed { //nolint:errorlint // it is not wrapped
		t.Error(err)
	}
	if reports != 3 {
		t.Errorf("%d of 3 failures were reported", reports)
	}
}
