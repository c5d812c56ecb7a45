// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"net/http"
	"sync"

	"pg_liveness_exporter/config"
)

// ServeConfig serves the configuration in effect as YAML, without secrets and addresses (config.File.Effective). It asks no
// server.
func (e *Exporter) ServeConfig(w http.ResponseWriter, _ *http.Request) {
	text, err := e.config.effective(e.monitor.Config())
	if err != nil {
		http.Error(w, "the configuration cannot be shown", http.StatusInternalServerError)
		return
	}
	header := w.Header()
	header.Set("Content-Type", "text/plain; charset=utf-8")
	header.Set("Cache-Control", "no-store")
	header.Set("X-Content-Type-Options", "nosniff")
	_, _ = w.Write(text) // ignored: the client has left
}

// configText is the text of a configuration. All requests share it.
type configText struct {
	mu   sync.Mutex // protects what follows
	file *config.File
	text []byte // that of file
}

// effective returns the text of a configuration. file is nil if there is none yet; the text is empty then.
func (c *configText) effective(file *config.File) ([]byte, error) {
	if file == nil {
		return nil, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if file == c.file {
		return c.text, nil
	}
	text, err := file.Effective()
	if err != nil {
		return nil, err
	}
	c.file, c.text = file, text
	return text, nil
}
