// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"net/netip"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Provider is a cloud that gives tokens to the identity of a pod or a machine.
type Provider string

// The clouds.
const (
	ProviderAWS   Provider = "aws"
	ProviderGCP   Provider = "gcp"
	ProviderAzure Provider = "azure"
)

// providers returns the names of all clouds.
func providers() []string {
	return []string{string(ProviderAWS), string(ProviderGCP), string(ProviderAzure)}
}

// CloudAuth is an identity whose token is the password. Two equal values are the same identity. It holds no secret.
type CloudAuth struct {
	Provider Provider
	// Region is the AWS region of the servers. If it is empty, it comes from the server's name, otherwise from the
	// environment.
	Region string
	// RoleARN is an AWS role to assume, with the identity that the environment gives. It may be empty.
	RoleARN string
	// ClientID is that of the Azure identity, if a machine or pod has several. If it is empty, the environment decides.
	ClientID string
	// Scope is the OAuth scope of the token of GCP and Azure. If it is empty, it is that of Cloud SQL or of Azure Database.
	Scope string
}

// errUnprotected is returned if a token would be sent to whoever answers.
var errUnprotected = errors.New("needs sslmode verify-full, or a host that is a unix socket, 127.0.0.1 or ::1: " +
	"whoever reads the token can use it")

// ParseProvider returns the cloud of this name. The error does not repeat the name.
func ParseProvider(name string) (Provider, error) {
	if !slices.Contains(providers(), name) {
		return "", errors.New("must be one of " + strings.Join(providers(), ", "))
	}
	return Provider(name), nil
}

// ProtectsToken returns an error unless only the server itself can read what a login sends: its certificate is verified, or
// the login does not leave this machine. A name is not resolved, so localhost is refused.
func (c *Connection) ProtectsToken() error {
	host := c.Address
	if host == "" {
		host = c.Host
	}
	addr, err := netip.ParseAddr(host)
	if c.TLS.VerifiesName() || c.IsSocket() || err == nil && addr.Unmap().IsLoopback() {
		return nil
	}
	return errUnprotected
}

// WantsOAuth reports whether the password is a token for the method oauth: require_auth allows it by name.
func (c *Connection) WantsOAuth() bool {
	return slices.ContainsFunc(strings.Split(c.RequireAuth, ","), func(method string) bool {
		return strings.TrimSpace(method) == methodOAuth
	})
}

// cloudAuth reads the value of cloud_auth: the name of a cloud, or a mapping with the key provider. It returns nil if there is
// a problem.
func (b *builder) cloudAuth(n *yaml.Node, where string) *CloudAuth {
	auth := &CloudAuth{}
	problems := len(b.problems)
	provider := func(n *yaml.Node, where string) { auth.Provider = Provider(b.oneOf(n, where, providers()...)) }
	if resolve(n).Kind != yaml.MappingNode {
		provider(n, where)
		return okOrNil(auth, len(b.problems) == problems)
	}
	of := make(map[string][]Provider) // the clouds that know each key that is given
	key := func(to *string, clouds ...Provider) func(*yaml.Node, string) {
		return func(n *yaml.Node, where string) {
			*to = b.text(n, where)
			of[where] = clouds
		}
	}
	b.mapping(n, where, fields{
		"provider":  provider,
		"region":    key(&auth.Region, ProviderAWS),
		"role_arn":  key(&auth.RoleARN, ProviderAWS),
		"client_id": key(&auth.ClientID, ProviderAzure),
		"scope":     key(&auth.Scope, ProviderGCP, ProviderAzure),
	})
	switch {
	case auth.Provider == "" && len(b.problems) == problems:
		b.problem(n, where, "needs a provider: one of %s", strings.Join(providers(), ", "))
	case auth.Provider != "":
		for _, name := range []string{"region", "role_arn", "client_id", "scope"} {
			if clouds := of[join(where, name)]; clouds != nil && !slices.Contains(clouds, auth.Provider) {
				b.problem(n, join(where, name), "does not apply to %s", auth.Provider)
			}
		}
	}
	if auth.RoleARN != "" && !strings.HasPrefix(auth.RoleARN, "arn:") {
		b.problem(n, join(where, "role_arn"), "must be the ARN of a role, such as arn:aws:iam::123456789012:role/liveness")
	}
	if strings.ContainsFunc(auth.Region, func(r rune) bool { return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' }) {
		b.problem(n, join(where, "region"), "must be the name of a region, such as eu-west-1")
	}
	return okOrNil(auth, len(b.problems) == problems)
}

// okOrNil returns v, or nil if it is not ok.
func okOrNil[T any](v *T, ok bool) *T {
	if !ok {
		return nil
	}
	return v
}
