// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package cloud

import (
	"context"
	"errors"
	"maps"
	"net"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	awsconfig "github.com/aws/aws-sdk-go-v2/config"
	awscredentials "github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/credentials/endpointcreds"
	"github.com/aws/aws-sdk-go-v2/credentials/stscreds"
	"github.com/aws/aws-sdk-go-v2/feature/rds/auth"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/smithy-go"
	"github.com/aws/smithy-go/logging"

	"pg_liveness_exporter/config"
)

const (
	// staticLifetime is how long credentials are used that have no end, such as the keys of a user. A file may have others by then.
	staticLifetime = time.Hour
	// tokenAge is how long a token is used. The signature is valid for 15 minutes.
	tokenAge = 10 * time.Minute
	// maxTokens bounds the tokens that are kept: /probe may name any number of servers.
	maxTokens = 16384
)

// aws gets credentials from the SDK's default chain, which it goes through anew. The grant signs a token for each server.
func (p *Providers) aws(ctx context.Context, identity *config.CloudAuth) (*Grant, error) {
	// AWS_CA_BUNDLE works with a client of this type only. That of a container's credentials has to be set by itself: the SDK's
	// own would send the request through a proxy.
	client := awshttp.NewBuildableClient().WithTimeout(requestTimeout).WithTransportOptions(func(t *http.Transport) {
		t.Proxy, t.DialContext, t.TLSClientConfig = p.transport.Proxy, p.transport.DialContext, p.transport.TLSClientConfig
		t.TLSHandshakeTimeout, t.ResponseHeaderTimeout = p.transport.TLSHandshakeTimeout, p.transport.ResponseHeaderTimeout
		t.MaxResponseHeaderBytes, t.DisableKeepAlives = p.transport.MaxResponseHeaderBytes, true
	})
	cfg, err := awsconfig.LoadDefaultConfig(ctx, awsconfig.WithHTTPClient(client), awsconfig.WithRetryMaxAttempts(2),
		awsconfig.WithDefaultRegion(identity.Region), awsconfig.WithLogger(logging.Nop{}),
		awsconfig.WithEndpointCredentialOptions(func(o *endpointcreds.Options) { o.HTTPClient = client }))
	if err != nil {
		return nil, awsError(err)
	}
	region := identity.Region
	if region == "" {
		region = cfg.Region
	}
	if region == "" {
		return nil, &detailError{"no AWS region found: set region in cloud_auth, or AWS_REGION"}
	}
	credentials, err := cfg.Credentials.Retrieve(ctx)
	if err == nil && identity.RoleARN != "" {
		role := stscreds.NewAssumeRoleProvider(sts.NewFromConfig(cfg), identity.RoleARN, func(o *stscreds.AssumeRoleOptions) {
			o.RoleSessionName = config.ApplicationName
		})
		credentials, err = role.Retrieve(ctx)
	}
	if err != nil {
		return nil, awsError(err)
	}
	expires := time.Now().Add(staticLifetime)
	if credentials.CanExpire {
		// The SDK takes five minutes off the end of a container's credentials. What it gives is good for a moment at least.
		if expires = credentials.Expires; time.Until(expires) < time.Minute {
			expires = time.Now().Add(time.Minute)
		}
	}
	signer := &signer{credentials: credentials, region: region, tokens: make(map[Endpoint]signed)}
	return &Grant{Expires: expires, password: signer.password}, nil
}

// signer signs tokens with the credentials of one grant, and keeps them.
type signer struct {
	credentials aws.Credentials
	region      string

	mu     sync.Mutex // protects what follows
	tokens map[Endpoint]signed
}

type signed struct {
	token config.Sealed
	at    time.Time
}

// password returns a token for a server. It is the same one for tokenAge, since a password that changes with each login is not
// recognized as one that the server has refused.
func (s *signer) password(of Endpoint) (config.Secret, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t := s.tokens[of]; t.token.Secret() != "" && time.Since(t.at) < tokenAge {
		return t.token.Secret(), nil
	}
	static := awscredentials.StaticCredentialsProvider{Value: s.credentials}
	address := net.JoinHostPort(strings.TrimSuffix(strings.ToLower(of.Host), "."), strconv.Itoa(int(of.Port)))
	token, err := auth.BuildAuthToken(context.Background(), address, s.region, of.User, static)
	if err != nil {
		return "", &detailError{"the token cannot be signed: the host is not the name of an AWS server"}
	}
	if len(s.tokens) >= maxTokens {
		maps.DeleteFunc(s.tokens, func(_ Endpoint, t signed) bool { return time.Since(t.at) >= tokenAge })
	}
	if len(s.tokens) >= maxTokens {
		clear(s.tokens)
	}
	s.tokens[of] = signed{config.Seal(config.Secret(token)), time.Now()}
	return config.Secret(token), nil
}

// serverName matches the name of an RDS or Aurora server.
var serverName = regexp.MustCompile(`\.(?:([a-z]{2}(?:-[a-z]+)+-[0-9]+)\.rds|rds\.(cn-[a-z]+-[0-9]+))\.amazonaws\.com(?:\.cn)?\.?$`)

// regionOf returns the region that the name of an RDS or Aurora server has, empty if it has none. In China, the region follows rds.
func regionOf(host string) string {
	found := serverName.FindStringSubmatch(strings.ToLower(host))
	if found == nil {
		return ""
	}
	return found[1] + found[2]
}

// awsError says in words why the SDK has no credentials. Of AWS's response, it contains only the code.
func awsError(err error) error {
	var (
		apiErr     smithy.APIError
		operation  *smithy.OperationError
		noProfile  awsconfig.SharedConfigProfileNotExistError
		assumeRole awsconfig.SharedConfigAssumeRoleError
	)
	fileErr := readable("the file of the AWS web identity token", os.Getenv("AWS_WEB_IDENTITY_TOKEN_FILE"))
	switch {
	case isPlaintext(err):
		return &detailError{plaintextDetail}
	case fileErr != nil:
		return fileErr
	case errors.As(err, &noProfile), errors.As(err, &assumeRole):
		return &detailError{"the AWS profile does not exist, or is not complete"}
	case errors.As(err, &apiErr):
		return because("AWS refuses the identity", apiErr.ErrorCode())
	case errors.As(err, &operation) && operation.Service() == sts.ServiceID:
		return &detailError{"AWS STS cannot be reached"}
	}
	return &detailError{"no AWS credentials found"}
}
