// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
	"golang.org/x/net/http/httpguts"
)

// HTTP has what a check of the kind http sends, and what the response must be. The keys are those of Prometheus's HTTP
// clients (HTTPClientConfig in github.com/prometheus/common/config).
type HTTP struct {
	// Statuses are those that the response may have. There is at least one.
	Statuses []StatusRange
	// Match must match the body; nil matches any.
	Match *regexp.Regexp
	// KeepRedirects makes a redirect the response instead of following it.
	KeepRedirects bool
	// Username and Password are those of basic authentication. Neither is set if there is none.
	Username, Password Content
	// AuthorizationType and Credentials make another authorization. Credentials is not set if there is none.
	AuthorizationType string
	Credentials       Content
	Headers           []Header
	Proxy             Proxy
}

// defaultAuthorization is the type of an authorization without one.
const defaultAuthorization = "Bearer"

// StatusRange is a range of HTTP statuses with both ends.
type StatusRange struct{ Min, Max int }

// String returns a status such as 200, or a class such as 2xx.
func (r StatusRange) String() string {
	if r.Min == r.Max {
		return strconv.Itoa(r.Min)
	}
	return fmt.Sprintf("%dxx", r.Min/100)
}

// Header is a header of a request.
type Header struct {
	Name   string
	Values []Content
}

// Proxy has the proxy of HTTP requests. There is none if URL is not set and FromEnvironment is false.
type Proxy struct {
	URL Content
	// NoProxy lists hosts without a proxy, as the variable NO_PROXY does.
	NoProxy string
	// FromEnvironment takes the proxy from the variables HTTP_PROXY, HTTPS_PROXY and NO_PROXY.
	FromEnvironment bool
	// ConnectHeaders are sent to the proxy for a connection with TLS.
	ConnectHeaders []Header
}

// ParseProxy parses the URL of a proxy. The error does not hold the URL.
func ParseProxy(text Secret) (*url.URL, error) {
	u, err := url.Parse(string(text))
	if err != nil || !slices.Contains([]string{"http", "https", "socks5", "socks5h"}, u.Scheme) || u.Hostname() == "" ||
		u.Port() != "" && !isPort(u.Port()) {
		return nil, errors.New("must be a URL with a host and the scheme http, https, socks5 or socks5h")
	}
	return u, nil
}

// httpFields adds the keys of an HTTP check. key is the function of check that adds a key.
func (b *builder) httpFields(c *Check, key func(string, func(*yaml.Node, string))) {
	h := &c.HTTP
	key("status", func(n *yaml.Node, where string) { h.Statuses = b.statuses(n, where) })
	key("match", func(n *yaml.Node, where string) { h.Match = b.pattern(n, where) })
	key("follow_redirects", func(n *yaml.Node, where string) {
		if follow := b.boolean(n, where); follow != nil {
			h.KeepRedirects = !*follow
		}
	})
	key("basic_auth", func(n *yaml.Node, where string) {
		known := make(fields)
		b.content(known.add, "username", &h.Username)
		b.content(known.add, "password", &h.Password)
		b.mapping(n, where, known)
		if !h.Username.IsSet() {
			b.problem(n, where, "needs a username")
		}
	})
	key("authorization", func(n *yaml.Node, where string) {
		known := make(fields)
		h.AuthorizationType = defaultAuthorization
		known["type"] = func(n *yaml.Node, where string) {
			h.AuthorizationType = b.text(n, where)
			switch {
			case strings.EqualFold(h.AuthorizationType, "basic"):
				b.problem(n, where, "must not be basic: use basic_auth instead")
			case !httpguts.ValidHeaderFieldName(h.AuthorizationType): // a token as well (RFC 9110, section 11.1)
				b.problem(n, where, "must be a word such as Bearer")
			}
		}
		b.content(known.add, "credentials", &h.Credentials)
		b.mapping(n, where, known)
		if !h.Credentials.IsSet() {
			b.problem(n, where, "needs credentials")
		}
	})
	key("http_headers", func(n *yaml.Node, where string) {
		h.Headers = b.headers(n, where, func(n *yaml.Node, where string) []Content {
			var all []Content
			texts := func(n *yaml.Node, where string) {
				for _, text := range b.list(n, where) {
					all = append(all, Content{Key: "http_headers", Text: Secret(text)})
				}
			}
			b.mapping(n, where, fields{
				"values": texts, "secrets": texts,
				"files": func(n *yaml.Node, where string) {
					for _, path := range b.list(n, where) {
						all = append(all, Content{Key: "http_headers", File: b.fromFolder(path)})
					}
				},
			})
			return all
		})
	})
	b.content(key, "proxy_url", &h.Proxy.URL)
	key("no_proxy", func(n *yaml.Node, where string) { h.Proxy.NoProxy = b.text(n, where) })
	key("proxy_from_environment", func(n *yaml.Node, where string) {
		if from := b.boolean(n, where); from != nil {
			h.Proxy.FromEnvironment = *from
		}
	})
	key("proxy_connect_header", func(n *yaml.Node, where string) {
		h.Proxy.ConnectHeaders = b.headers(n, where, func(n *yaml.Node, where string) []Content {
			var all []Content
			for _, text := range b.list(n, where) {
				all = append(all, Content{Key: "proxy_connect_header", Text: Secret(text)})
			}
			return all
		})
	})
	key("tls_config", func(n *yaml.Node, where string) { b.tlsConfig(&c.TLS, n, where) })
}

// statuses reads a status, a class such as 2xx, or a list of them.
func (b *builder) statuses(n *yaml.Node, where string) []StatusRange {
	var texts []string
	if resolve(n).Kind == yaml.SequenceNode {
		texts = b.list(n, where)
	} else {
		texts = []string{b.text(n, where)}
	}
	var all []StatusRange
	for _, text := range texts {
		status, err := strconv.Atoi(text)
		switch {
		case text == "": // it is among the problems
		case regexp.MustCompile(`^[1-5][xX][xX]$`).MatchString(text):
			least := int(text[0]-'0') * 100
			all = append(all, StatusRange{least, least + 99})
		case err != nil || status < 100 || status > 599:
			b.problem(n, where, "must be a status from 100 to 599, a class such as 2xx, or a list of them")
			return nil
		default:
			all = append(all, StatusRange{status, status})
		}
	}
	return all
}

// headers reads headers by their names. read reads the values of one.
func (b *builder) headers(n *yaml.Node, where string, read func(*yaml.Node, string) []Content) []Header {
	// Those that the client sets itself, or that have a key of their own.
	reserved := []string{
		"Accept-Encoding", "Authorization", "Connection", "Content-Encoding", "Content-Length", "Content-Type", "Host", "Keep-Alive",
		"Proxy-Authorization", "Proxy-Connection", "Referer", "Te", "Trailer", "Transfer-Encoding", "Upgrade", "User-Agent",
	}
	var all []Header
	b.entries(n, where, func(name string, n *yaml.Node, inner string) {
		if !httpguts.ValidHeaderFieldName(name) { // it may be a secret in the wrong place
			b.problem(n, where, "has a key that is not a valid header name")
			return
		}
		where := inner
		h := Header{Name: http.CanonicalHeaderKey(name), Values: read(n, where)}
		if slices.Contains(reserved, h.Name) {
			b.problem(n, where, "is a header that the exporter sets itself, or one that has a key of its own")
		}
		for _, value := range h.Values {
			if !httpguts.ValidHeaderFieldValue(string(value.Text)) {
				b.problem(n, where, "has a value with a line end or another control character")
			}
		}
		all = append(all, h)
	})
	return all
}

// tlsConfig reads the key tls_config.
func (b *builder) tlsConfig(t *CheckTLS, n *yaml.Node, where string) {
	known := make(fields)
	var roots Content
	b.content(known.add, "ca", &roots)
	b.content(known.add, "cert", &t.Cert)
	b.content(known.add, "key", &t.Key)
	known["server_name"] = func(n *yaml.Node, where string) { t.ServerName = b.text(n, where) }
	known["insecure_skip_verify"] = func(n *yaml.Node, where string) {
		if skip := b.boolean(n, where); skip != nil {
			t.SkipVerify = *skip
		}
	}
	version := func(to *uint16) func(*yaml.Node, string) {
		return func(n *yaml.Node, where string) {
			*to = map[string]uint16{"TLS12": tls.VersionTLS12, "TLS13": tls.VersionTLS13}[b.oneOf(n, where, "TLS12", "TLS13")]
		}
	}
	known["min_version"], known["max_version"] = version(&t.MinVersion), version(&t.MaxVersion)
	b.mapping(n, where, known)
	switch {
	case roots.IsSet() && t.Roots.IsSet():
		b.problem(n, where, "has a ca, and the check also has sslrootcert: keep one of them")
	case roots.IsSet():
		t.Roots = roots
	}
	if t.Cert.IsSet() != t.Key.IsSet() {
		b.problem(n, where, "has only one of cert and key")
	}
	if t.MaxVersion != 0 && t.MinVersion > t.MaxVersion {
		b.problem(n, where, "has a min_version above max_version")
	}
}

// checkHTTP sets the default of an HTTP check, and finds keys that contradict each other. given has the values of the entry.
func (b *builder) checkHTTP(c *Check, where string, given map[string]*yaml.Node) {
	if c.Kind == CheckHTTP && c.HTTP.Statuses == nil {
		c.HTTP.Statuses = []StatusRange{{200, 299}}
	}
	p := &c.HTTP.Proxy
	hasProxy := p.URL.IsSet() || p.FromEnvironment
	if p.URL.Text != "" {
		if _, err := ParseProxy(p.URL.Text); err != nil {
			b.problem(given[p.URL.Key], join(where, p.URL.Key), "%s", err)
		}
	}
	switch {
	case c.HTTP.Username.IsSet() && c.HTTP.Credentials.IsSet():
		b.problem(given["authorization"], join(where, "authorization"), "cannot be combined with basic_auth")
	case p.FromEnvironment && p.URL.IsSet():
		b.problem(given["proxy_from_environment"], join(where, "proxy_from_environment"), "cannot be combined with %s", p.URL.Key)
	case p.NoProxy != "" && !p.URL.IsSet():
		b.problem(given["no_proxy"], join(where, "no_proxy"), "needs a proxy_url")
	case p.ConnectHeaders != nil && !hasProxy:
		b.problem(given["proxy_connect_header"], join(where, "proxy_connect_header"), "needs a proxy_url or proxy_from_environment")
	}
}
