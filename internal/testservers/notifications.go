// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package testservers

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"time"
)

// Notification is a message of Alertmanager about a group of alerts.
type Notification struct {
	Receiver, Status string
	Alerts           []struct {
		Status              string
		Labels, Annotations map[string]string
	}
}

// listenForNotifications starts an HTTP server that calls notified, unless that is nil, for each webhook of
// Alertmanager. It returns the URL for the webhooks. The server runs until Close.
func (s *Stack) listenForNotifications(ctx context.Context, notified func(Notification)) (string, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	server := &http.Server{
		ReadHeaderTimeout: requestTimeout, ReadTimeout: requestTimeout,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			var n Notification
			if err := json.NewDecoder(r.Body).Decode(&n); err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
			if notified != nil {
				notified(n)
			}
		}),
	}
	ended := make(chan struct{})
	go func() {
		_ = server.Serve(l) // until Shutdown
		close(ended)
	}()
	s.ends = append(s.ends, func() error {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		err := server.Shutdown(ctx)
		if errors.Is(err, context.DeadlineExceeded) {
			err = server.Close()
		}
		<-ended
		return err
	})
	return "http://" + l.Addr().String(), nil
}
