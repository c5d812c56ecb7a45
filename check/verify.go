// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package check

import (
	"pg_liveness_exporter/config"
)

// VerifyFiles returns what is wrong with the content of the files that a check names. Each error begins with a key. A file that
// cannot be read is not reported: it may exist only where the exporter runs.
func VerifyFiles(settings *config.Check, source Source) []error {
	var errs []error
	add := func(err error) {
		if err != nil && !config.IsSystemError(err) {
			errs = append(errs, PublicError(describe(err)))
		}
	}
	if settings.Kind == config.CheckSQL {
		return nil
	}
	d := dependency{settings, source}
	all := []config.CheckTLS{settings.TLS}
	location, err := d.location()
	add(err)
	if err == nil && (settings.Kind == config.CheckRedis || settings.Kind == config.CheckCelery) {
		if l, err := d.ParseRedis(location); err == nil {
			for _, server := range l.Servers {
				if server.TLS != nil {
					all = append(all, *server.TLS)
				}
			}
		}
	}
	seen := make(map[config.Content]bool)
	for _, t := range all {
		if !seen[t.Roots] {
			_, err := d.tlsConfig(config.CheckTLS{Roots: t.Roots}, "")
			add(err)
		}
		if !seen[t.Cert] {
			_, err := d.tlsConfig(config.CheckTLS{Cert: t.Cert, Key: t.Key}, "")
			add(err)
		}
		seen[t.Roots], seen[t.Cert] = true, true
	}
	h := &settings.HTTP
	for _, content := range []config.Content{settings.SentinelPassword, h.Username, h.Password} {
		_, err := d.read(content)
		add(err)
	}
	w := &web{d}
	headers := []config.Content{h.Credentials}
	for _, header := range h.Headers {
		headers = append(headers, header.Values...)
	}
	for _, content := range headers {
		_, err := w.headerValue(content)
		add(err)
	}
	_, err = w.proxy()
	add(err)
	return errs
}
