// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package check

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"syscall"

	"pg_liveness_exporter/config"
)

const (
	// maxBody is how many bytes of a body are searched for a match, and maxHeader how long the header may be, in bytes.
	maxBody   = 1 << 20
	maxHeader = 64 << 10
	// maxRedirects is how many redirects are followed.
	maxRedirects = 10
)

// web sends a GET request to a URL. It follows redirects unless the wanted status is a redirect, to its own host and to
// addresses that are not special (config.IsSpecial): whoever answers chooses them.
type web struct{ dependency }

func (c *web) run(ctx context.Context) (number, error) {
	location, err := c.location()
	if err != nil {
		return number{}, err
	}
	settings, err := c.tlsConfig(c.TLS, "") // net/http sets the host
	if err != nil {
		return number{}, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, string(location), nil)
	if err != nil {
		return number{}, PublicError("its URL cannot be used")
	}
	request.Header.Set("User-Agent", "pg_liveness_exporter")
	client := http.Client{
		Transport: &http.Transport{
			DialContext: newGuardedDial(), TLSClientConfig: settings,
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

// newGuardedDial returns a function like dial for one run of a check. It connects to special addresses only for the host
// that it is called with first: the check's own. One goroutine at a time may call it.
func newGuardedDial() func(ctx context.Context, network, address string) (net.Conn, error) {
	var own string
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		host, _, err := net.SplitHostPort(address)
		if err != nil {
			return nil, err
		}
		host = canonicalHost(host)
		if own == "" {
			own = host
		}
		d := newDialer()
		if host != own {
			d.Control = refuseSpecial
		}
		return d.DialContext(ctx, network, address)
	}
}

// canonicalHost returns a host in a form that is the same for every spelling of it.
func canonicalHost(host string) string {
	if addr, err := netip.ParseAddr(host); err == nil {
		return addr.Unmap().String()
	}
	return strings.ToLower(strings.TrimSuffix(host, "."))
}

// refuseSpecial is net.Dialer's Control. address is the one that the dialer is about to connect to.
func refuseSpecial(_, address string, _ syscall.RawConn) error {
	addr, err := netip.ParseAddrPort(address)
	if err != nil || config.IsSpecial(addr.Addr()) {
		return PublicError("redirected to an address that is not allowed")
	}
	return nil
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
