// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package config

// Content is a text, or the path of a file that holds the text and is read at each run. The zero value is none.
type Content struct {
	// Key is the key of the file or the parameter of the URL that set it. Errors name it.
	Key string
	// Text is empty if File is set.
	Text Secret
	File string
}

// IsSet reports whether there is a text or a file.
func (c Content) IsSet() bool { return c.Text != "" || c.File != "" }

// CheckTLS has how a check verifies a server, and what it shows of itself. The zero value verifies the certificate and its
// name with the system's certificates.
type CheckTLS struct {
	// Roots has the certificates to trust in PEM format. If it is not set, the system's are trusted.
	Roots Content
	// Cert and Key are a client certificate and its key in PEM format. Both are set or none.
	Cert, Key Content
	// ServerName is the name to verify. It is empty for the host's.
	ServerName string
	// MinVersion and MaxVersion are of crypto/tls. A zero MinVersion is TLS 1.2, and a zero MaxVersion no limit.
	MinVersion, MaxVersion uint16
	// SkipVerify accepts any certificate. SkipName accepts the certificate of any host if it is trusted.
	SkipVerify, SkipName bool
}
