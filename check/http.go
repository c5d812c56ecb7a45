// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package check

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/net/http/httpguts"
	"golang.org/x/net/http/httpproxy"

	"pg_liveness_exporter/config"
)

const (
	// maxBody is how many bytes of a body are searched for a match, and maxHeader how long the header may be, in bytes.
	maxBody   = 1 << 20
	maxHeader = 64 << 10
	// maxRedirects is how many redirects are followed.
	maxRedirects = 10
)

// web sends a GET request to a URL. It follows redirects unless a redirect may be the response. It follows them to its own
// host and to addresses that are not special (config.IsSpecial): whoever answers chooses them. Through a proxy it follows
// them to its own host only, since the proxy resolves the names.
//
// It does not use the HTTP client of github.com/prometheus/common, which has the same settings: that one registers metrics
// of the process and limits neither headers nor files.
type web struct{ dependency }

func (c *web) run(ctx context.Context) (number, error) {
	location, err := c.location()
	if err != nil {
		return number{}, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, string(location), nil)
	if err != nil {
		return number{}, PublicError("its URL cannot be used")
	}
	if err := c.setHeaders(request.Header); err != nil {
		return number{}, err
	}
	request.Header.Set("User-Agent", "pg_liveness_exporter")
	dialer := &guardedDialer{ctx: ctx}
	defer dialer.close()
	transport, err := c.transport(dialer)
	if err != nil {
		return number{}, err
	}
	client := http.Client{
		Transport: transport,
		CheckRedirect: func(next *http.Request, before []*http.Request) error {
			return c.redirect(next, before, transport.Proxy)
		},
	}
	response, err := client.Do(request)
	switch {
	case errors.Is(err, http.ErrSchemeMismatch):
		return number{}, PublicError("the TLS handshake failed")
	case err != nil && strings.Contains(err.Error(), "server closed idle connection"):
		// the server closed the connection before the request was sent
		return number{}, io.ErrUnexpectedEOF
	case err != nil:
		return number{}, err
	}
	defer func() { _ = response.Body.Close() }() // the error does not affect the result
	if !c.wants(response.StatusCode) {
		return number{}, PublicError(fmt.Sprintf("status %d, %s is expected", response.StatusCode, c.expected()))
	}
	if c.HTTP.Match == nil {
		return number{}, nil
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, maxBody))
	if err != nil {
		return number{}, err
	}
	if !c.HTTP.Match.Match(body) {
		return number{}, PublicError("the body does not match")
	}
	return number{}, nil
}

// transport returns the transport of one run.
func (c *web) transport(dialer *guardedDialer) (*http.Transport, error) {
	settings, err := c.tlsConfig(c.TLS, "") // net/http sets the host
	if err != nil {
		return nil, err
	}
	proxy, err := c.proxy()
	if err != nil {
		return nil, err
	}
	forProxy := make(http.Header)
	if err := c.addHeaders(forProxy, c.HTTP.Proxy.ConnectHeaders); err != nil {
		return nil, err
	}
	return &http.Transport{
		Proxy: proxy, ProxyConnectHeader: forProxy, OnProxyConnectResponse: proxyResponse,
		DialContext: dialer.dial, TLSClientConfig: settings,
		DisableKeepAlives: true, DisableCompression: true, MaxResponseHeaderBytes: maxHeader,
	}, nil
}

// proxy returns the function that chooses the proxy of a request, or nil if there is none.
func (c *web) proxy() (func(*http.Request) (*url.URL, error), error) {
	p := &c.HTTP.Proxy
	if p.FromEnvironment {
		choose := httpproxy.FromEnvironment().ProxyFunc()
		return func(request *http.Request) (*url.URL, error) { return choose(request.URL) }, nil
	}
	text, err := c.read(p.URL)
	if err != nil || text == "" {
		return nil, err
	}
	u, err := config.ParseProxy(config.Secret(text))
	if err != nil {
		return nil, PublicError(p.URL.Key + ": " + err.Error())
	}
	if p.NoProxy == "" { // as in Prometheus, a loopback address then goes through the proxy too
		return http.ProxyURL(u), nil
	}
	choose := (&httpproxy.Config{HTTPProxy: text, HTTPSProxy: text, NoProxy: p.NoProxy}).ProxyFunc()
	return func(request *http.Request) (*url.URL, error) { return choose(request.URL) }, nil
}

// proxyResponse is http.Transport's OnProxyConnectResponse.
func proxyResponse(_ context.Context, _ *url.URL, _ *http.Request, response *http.Response) error {
	if response.StatusCode != http.StatusOK {
		return PublicError(fmt.Sprintf("its proxy answers with status %d", response.StatusCode))
	}
	return nil
}

// setHeaders adds the headers of the check to those of a request.
func (c *web) setHeaders(h http.Header) error {
	if err := c.addHeaders(h, c.HTTP.Headers); err != nil {
		return err
	}
	switch {
	case c.HTTP.Username.IsSet():
		name, err := c.read(c.HTTP.Username)
		if err != nil {
			return err
		}
		password, err := c.read(c.HTTP.Password)
		if err != nil {
			return err
		}
		h.Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(name+":"+password)))
	case c.HTTP.Credentials.IsSet():
		credentials, err := c.headerValue(c.HTTP.Credentials)
		if err != nil {
			return err
		}
		h.Set("Authorization", c.HTTP.AuthorizationType+" "+credentials)
	}
	return nil
}

func (c *web) addHeaders(h http.Header, headers []config.Header) error {
	for _, header := range headers {
		for _, content := range header.Values {
			value, err := c.headerValue(content)
			if err != nil {
				return err
			}
			h.Add(header.Name, value)
		}
	}
	return nil
}

// headerValue returns a text that can be a header's value.
func (c *web) headerValue(content config.Content) (string, error) {
	value, err := c.read(content)
	if err == nil && !httpguts.ValidHeaderFieldValue(value) {
		err = PublicError(content.Key + " has a line end or another control character")
	}
	return value, err
}

// guardedDialer opens the connections of one run. It connects to special addresses only for the host that it is called with
// first: the check's own, or its proxy.
type guardedDialer struct {
	ctx context.Context //nolint:containedctx // bounds the run: net/http goes on dialing after a request has ended

	mu     sync.Mutex // protects what follows
	own    string
	opened []net.Conn
	closed bool
}

// dial is http.Transport's DialContext. Any goroutine may call it.
func (d *guardedDialer) dial(_ context.Context, network, address string) (net.Conn, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	host = canonicalHost(host)
	dialer := newDialer()
	d.mu.Lock()
	if d.own == "" {
		d.own = host
	}
	if host != d.own {
		dialer.Control = refuseSpecial
	}
	d.mu.Unlock()
	conn, err := dialer.DialContext(d.ctx, network, address)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil, errors.Join(net.ErrClosed, conn.Close())
	}
	d.opened = append(d.opened, conn)
	return conn, nil
}

// close closes what was opened, so that no goroutine of net/http is left that waits for it.
func (d *guardedDialer) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	for _, conn := range d.opened {
		_ = conn.Close() // the error does not affect the result
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

// wants reports whether a response may have this status.
func (c *web) wants(status int) bool {
	return slices.ContainsFunc(c.HTTP.Statuses, func(r config.StatusRange) bool { return r.Min <= status && status <= r.Max })
}

// expected returns the statuses that a response may have, in words.
func (c *web) expected() string {
	var all []string
	for _, r := range c.HTTP.Statuses {
		all = append(all, r.String())
	}
	return strings.Join(all, " or ")
}

// redirect is http.Client's CheckRedirect. proxy chooses the proxy of a request; it is nil if there is none.
func (c *web) redirect(next *http.Request, before []*http.Request, proxy func(*http.Request) (*url.URL, error)) error {
	next.Header.Del("Referer") // it is the URL of the check, which may contain a secret
	own := before[0].URL
	switch {
	case c.HTTP.KeepRedirects, slices.ContainsFunc(c.HTTP.Statuses, func(r config.StatusRange) bool { return r.Min/100 == 3 }):
		return http.ErrUseLastResponse
	case len(before) >= maxRedirects:
		return PublicError("redirected without end")
	}
	if proxy != nil && canonicalHost(next.URL.Hostname()) != canonicalHost(own.Hostname()) {
		if through, err := proxy(next); err != nil || through != nil {
			return PublicError("redirected to another host, which is not followed through a proxy")
		}
	}
	if !isSameService(next.URL, own) {
		next.Header.Del("Authorization")
		for _, header := range c.HTTP.Headers {
			next.Header.Del(header.Name)
		}
	}
	return nil
}

// isSameService reports whether the secrets for own may be sent to next: it has the same scheme, host and port, or is
// https where own is http, with the ports of both schemes.
func isSameService(next, own *url.URL) bool {
	port := func(u *url.URL) string {
		return cmp.Or(u.Port(), map[string]string{"http": "80", "https": "443"}[u.Scheme])
	}
	if canonicalHost(next.Hostname()) != canonicalHost(own.Hostname()) {
		return false
	}
	return next.Scheme == own.Scheme && port(next) == port(own) ||
		own.Scheme == "http" && port(own) == "80" && next.Scheme == "https" && port(next) == "443"
}
