// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

// Package cloud gets tokens for the identity that a cloud gives to a pod or a machine. Each provider's own library finds the
// identity and makes the requests. A client of a provider exists only while it is asked, so a provider that no target uses
// costs nothing but the size of the program.
//
// Two rules hold for every request, whatever the environment says. Plaintext HTTP goes to this machine, to its link or to a
// cloud's metadata service, and nowhere else. None of these is reached through a proxy.
//
// No error text holds an address, a path or a secret, nor what a provider answered except for its error codes.
package cloud

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/http/httpproxy"

	"pg_liveness_exporter/config"
	"pg_liveness_exporter/internal/publicroots"
)

const (
	// dialTimeout and replyTimeout bound the steps of one request, so that a metadata service that is not there leaves time to say so.
	dialTimeout  = 2 * time.Second
	replyTimeout = 4 * time.Second
	// requestTimeout bounds one request with its body. Some libraries give a request no context.
	requestTimeout = 8 * time.Second
	// maxToken bounds a token, in bytes. Entra's have a few thousand.
	maxToken = 64 << 10
)

// Endpoint is the server that a password is for.
type Endpoint struct {
	Host string // the name by which the provider knows the server
	Port uint16
	User string
}

// Grant is what a provider gave. Its methods may be called by several goroutines at once.
type Grant struct {
	// Expires is when the provider ends it.
	Expires time.Time

	password func(Endpoint) (config.Secret, error)
}

// Fixed returns a grant with a password that is the same for every server.
func Fixed(password config.Secret, expires time.Time) *Grant {
	return &Grant{Expires: expires, password: func(Endpoint) (config.Secret, error) { return password, nil }}
}

// Password returns the password for a server. It does no I/O.
func (g *Grant) Password(of Endpoint) (config.Secret, error) { return g.password(of) }

// Providers asks the providers of identities.
type Providers struct{ transport *http.Transport }

// NewProviders returns a value that has asked nobody yet.
func NewProviders() *Providers {
	return &Providers{&http.Transport{
		Proxy:                  proxy,
		DialContext:            (&net.Dialer{Timeout: dialTimeout}).DialContext,
		TLSHandshakeTimeout:    replyTimeout,
		ResponseHeaderTimeout:  replyTimeout,
		MaxResponseHeaderBytes: 64 << 10,
		DisableKeepAlives:      true, // requests are rare
	}}
}

// Fetch asks a provider anew. ctx bounds it, although a library may finish a request in the background, which the time-outs
// of a request bound. A panic of a provider's library is an error, unless it is in a
// goroutine of the library.
func (p *Providers) Fetch(ctx context.Context, auth *config.CloudAuth) (grant *Grant, err error) {
	defer func() {
		if recover() != nil {
			grant, err = nil, &detailError{"no token: the provider's library failed"}
		}
	}()
	publicroots.Install()
	switch auth.Provider {
	case config.ProviderAWS:
		grant, err = p.aws(ctx, auth)
	case config.ProviderGCP:
		grant, err = p.gcp(ctx, auth)
	case config.ProviderAzure:
		grant, err = p.azure(ctx, auth)
	default:
		err = &detailError{"unknown provider"}
	}
	var detail *detailError
	switch {
	case err == nil:
		return grant, nil
	case ctx.Err() != nil && !isPlaintext(err):
		return nil, &detailError{"the identity service did not answer in time"}
	case errors.As(err, &detail):
		return nil, detail
	}
	return nil, &detailError{"no token: the reason is not known"}
}

// Resolve returns the identity with what the server's name says about it: the region of an AWS server.
func Resolve(auth config.CloudAuth, host string) config.CloudAuth {
	if auth.Provider == config.ProviderAWS && auth.Region == "" {
		auth.Region = regionOf(host)
	}
	return auth
}

// detailError is an error whose text may be shown to anyone.
type detailError struct{ text string }

func (e *detailError) Error() string { return e.text }

// because returns a detailError with the text and, in parentheses, an error code of a provider if it looks like one.
func because(text, code string) error {
	if regexp.MustCompile(`^[A-Za-z][A-Za-z0-9._-]{1,60}$`).MatchString(code) {
		text += " (" + code + ")"
	}
	return &detailError{text}
}

// readable returns an error unless a file can be read, which a provider's library reads: most of them do not say so in a way
// that a program recognizes. what names the file in the error. An empty path is no file.
func readable(what, path string) error {
	if path == "" {
		return nil
	}
	_, err := config.ReadFile(path, maxToken)
	var fileErr *config.FileError
	if errors.As(err, &fileErr) {
		err = fileErr.Unwrap()
	}
	if err != nil {
		return &detailError{fmt.Sprintf("%s cannot be read: %s", what, err)}
	}
	return nil
}

// isPlaintext reports whether the rule about plaintext is why a request failed. Some libraries do not wrap their causes.
func isPlaintext(err error) bool {
	return err != nil && strings.Contains(err.Error(), plaintextDetail)
}

// bearer returns the grant of a token that is the password for every server.
func bearer(token string, expires time.Time) (*Grant, error) {
	switch isControl := func(r rune) bool { return r <= ' ' || r == 0x7f }; {
	case token == "" || len(token) > maxToken || strings.ContainsFunc(token, isControl):
		return nil, &detailError{"the response of the identity service has no token"}
	case !expires.After(time.Now()):
		return nil, &detailError{"the token that the identity service gives has expired: is the clock right?"}
	}
	return Fixed(config.Secret(token), expires), nil
}

// plaintextDetail is the error instead of sending or receiving a token in plaintext over a network.
const plaintextDetail = "the identity service that a variable names needs https, because it is neither on this machine nor link-local"

// proxy returns the proxy of a request, nil for none. It is the rule of the package comment.
func proxy(request *http.Request) (*url.URL, error) {
	switch near := isNear(request.URL.Hostname()); {
	case near:
		return nil, nil //nolint:nilnil // http.Transport's nil means no proxy
	case request.URL.Scheme != "https":
		return nil, &detailError{plaintextDetail}
	}
	return httpproxy.FromEnvironment().ProxyFunc()(request.URL)
}

// isNear reports whether a host is this machine, an address of its link, or the metadata service of a cloud.
func isNear(host string) bool {
	if addr, err := netip.ParseAddr(host); err == nil {
		addr = addr.Unmap()
		return addr.IsLoopback() || addr.IsLinkLocalUnicast() || slices.Contains(metadataAddresses(), addr.String())
	}
	return slices.Contains([]string{"localhost", "metadata", "metadata.google.internal"}, strings.TrimSuffix(strings.ToLower(host), "."))
}

// metadataAddresses returns the addresses of metadata services that are not of the link: those of AWS (the machine's and that of
// EKS's pod identity), Google and Azure.
func metadataAddresses() []string {
	return []string{"fd00:ec2::254", "fd00:ec2::23", "fd20:ce::254", "168.63.129.16"}
}
