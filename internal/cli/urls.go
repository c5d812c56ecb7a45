// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"errors"
	"net/url"
	"path"
	"regexp"
	"strings"
)

// urlPath matches the paths that a prefix can have. Every character is itself in a URL, in HTML and in Prometheus's labels.
var urlPath = regexp.MustCompile(`^(/[A-Za-z0-9._~-]+)*$`)

// urlFlags are the values of --web.external-url and --web.route-prefix.
type urlFlags struct{ external, prefix string }

// parse returns Flags.ExternalURL and Flags.RoutePrefix. As in Prometheus, slashes at the ends do not count, and the prefix is
// the path of the URL unless it is given. An error does not repeat the text, which may be a secret in the wrong place.
func (f urlFlags) parse() (*url.URL, string, error) {
	routePrefix, ok := withoutSlashes(f.prefix)
	if !ok {
		return nil, "", errors.New("--web.route-prefix is not a path such as /pg")
	}
	if f.external == "" {
		return &url.URL{Path: routePrefix}, routePrefix, nil
	}
	wrong := errors.New("--web.external-url is neither a URL such as https://example.org/pg nor a path such as /pg")
	u, err := url.Parse(f.external)
	if err != nil || u.User != nil || u.Opaque != "" || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" {
		return nil, "", wrong
	}
	isPath := u.Scheme == "" && u.Host == "" && strings.HasPrefix(u.Path, "/")
	isURL := (u.Scheme == "http" || u.Scheme == "https") && u.Hostname() != "" && (u.Port() == "" || !isNoAddress(u.Host))
	urlPrefix, ok := withoutSlashes(u.EscapedPath())
	if !ok || !isPath && !isURL {
		return nil, "", wrong
	}
	if f.prefix == "" {
		routePrefix = urlPrefix
	}
	return &url.URL{Scheme: u.Scheme, Host: u.Host, Path: urlPrefix}, routePrefix, nil
}

// withoutSlashes returns a path with one slash at its beginning and none at its end, or an empty one for the root. It reports
// false if it is not a path that can be a prefix.
func withoutSlashes(text string) (string, bool) {
	trimmed := strings.Trim(text, "/")
	if trimmed == "" {
		return "", true
	}
	trimmed = "/" + trimmed
	return trimmed, urlPath.MatchString(trimmed) && path.Clean(trimmed) == trimmed
}
