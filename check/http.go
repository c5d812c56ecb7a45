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
	// maxBody is how many bytes of a body are searched for a match, and maxHeader how long the header may be, in bytes.
	maxBody   = 1 << 20
	maxHeader = 64 << 10
	// maxRedirects is how many redirects are followed.
	maxRedirects = 10
)

// web sends a GET request to a URL. It follows redirects unless the wanted status is a redirect.
type web struct{ dependency }

func (c *web) run(ctx context.Context) (number, error) {
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
		return number{}, PublicError("its URL cannot be used")
	}
	request.Header.Set("User-Agent", "pg_liveness_exporter")
	client := http.Client{
		Transport: &http.Transport{
			DialContext: dial, TLSClientConfig: &tls.Config{RootCAs: trusted, MinVersion: tls.VersionTLS12},
			DisableKeepAlives: true, DisableCompression: true, MaxResponseHeaderBytes: maxHeader,
		},
		CheckRedirect: c.redirect,
	}
	response, err := client.Do(request)
	switch {
	case errors.Is(err, http.ErrSchemeMismatch):
		return number{}, PublicError("no TLS with it")
	case err != nil && strings.Contains(err.Error(), "server closed idle connection"):
		// the server closed the connection before the request was sent
		return number{}, io.ErrUnexpectedEOF
	case err != nil:
		return number{}, err
	}
	defer func() { _ = response.Body.Close() }() // the error does not affect the result
	if !c.wants(response.StatusCode) {
		return number{}, PublicError(fmt.Sprintf("status %d", response.StatusCode))
	}
	if c.Match == nil {
		return number{}, nil
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, maxBody))
	if err != nil {
		return number{}, err
	}
	if !c.Match.Match(body) {
		return number{}, PublicError("the body does not match")
	}
	return number{}, nil
}

// wants reports whether a status is the wanted one, or is 2xx if none is set.
func (c *web) wants(status int) bool {
	if c.Status != 0 {
		return status == c.Status
	}
	return status >= 200 && status < 300
}

// redirect is http.Client's CheckRedirect.
func (c *web) redirect(next *http.Request, before []*http.Request) error {
	next.Header.Del("Referer") // it is the URL of the check, which may contain a secret
	switch {
	case c.Status >= 300 && c.Status < 400:
		return http.ErrUseLastResponse
	case len(before) >= maxRedirects:
		return PublicError("redirected without end")
	}
	return nil
}
