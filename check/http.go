// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package check

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
)

const (
	// mostBody is how much of a body is searched, and mostHeader how long its header may be.
	mostBody   = 1 << 20
	mostHeader = 64 << 10
	// mostRedirects is how many are followed.
	mostRedirects = 10
)

// web gets a URL. It follows redirects unless the status that is wanted is one.
type web struct{ dependency }

func (c *web) ask(ctx context.Context) (number, error) {
	u, err := c.url()
	if err != nil {
		return number{}, err
	}
	trusted, err := c.roots()
	if err != nil {
		return number{}, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return number{}, Problem("its URL cannot be used")
	}
	request.Header.Set("User-Agent", "pg_liveness_exporter")
	client := http.Client{
		Transport: &http.Transport{
			DialContext: dial, TLSClientConfig: &tls.Config{RootCAs: trusted, MinVersion: tls.VersionTLS12},
			DisableKeepAlives: true, DisableCompression: true, MaxResponseHeaderBytes: mostHeader,
		},
		CheckRedirect: c.redirect,
	}
	response, err := client.Do(request)
	switch {
	case errors.Is(err, http.ErrSchemeMismatch):
		return number{}, Problem("no TLS with it")
	case err != nil && strings.Contains(err.Error(), "server closed idle connection"): // closed before it was asked
		return number{}, io.ErrUnexpectedEOF
	case err != nil:
		return number{}, err
	}
	defer func() { _ = response.Body.Close() }() // there is nothing more to learn
	if !c.wants(response.StatusCode) {
		return number{}, Problem(fmt.Sprintf("status %d", response.StatusCode))
	}
	if c.Match == nil {
		return number{}, nil
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, mostBody))
	if err != nil {
		return number{}, err
	}
	if !c.Match.Match(body) {
		return number{}, Problem("the body does not match")
	}
	return number{}, nil
}

func (c *web) wants(status int) bool {
	if c.Status != 0 {
		return status == c.Status
	}
	return status >= 200 && status < 300
}

func (c *web) redirect(next *http.Request, before []*http.Request) error {
	next.Header.Del("Referer") // our URL, with what may be a secret in it
	switch {
	case c.Status >= 300 && c.Status < 400:
		return http.ErrUseLastResponse
	case len(before) >= mostRedirects:
		return Problem("redirected without end")
	}
	return nil
}
