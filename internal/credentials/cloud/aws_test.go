// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package cloud

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"pg_liveness_exporter/config"
)

// checkSigned fails unless token is a presigned request as RDS documents it, signed by Signature Version 4 with this secret key
// (IAM User Guide, "Create a signed AWS API request"). It is computed here without the SDK.
func checkSigned(t *testing.T, token, endpoint, user, region, keyID, secretKey, session string) {
	t.Helper()
	address, query, ok := strings.Cut(token, "?")
	if !ok || address != endpoint {
		t.Errorf("it is for %q, want %q", address, endpoint)
	}
	values, err := url.ParseQuery(query)
	if err != nil {
		t.Fatal(err)
	}
	date := values.Get("X-Amz-Date")
	if signed, err := time.Parse("20060102T150405Z", date); err != nil || time.Since(signed).Abs() > time.Minute {
		t.Errorf("signed at %q", date)
	}
	scope := date[:8] + "/" + region + "/rds-db/aws4_request"
	for name, want := range map[string]string{
		"Action": "connect", "DBUser": user, "X-Amz-Algorithm": "AWS4-HMAC-SHA256", "X-Amz-Expires": "900", "X-Amz-SignedHeaders": "host",
		"X-Amz-Credential": keyID + "/" + scope, "X-Amz-Security-Token": session,
	} {
		if got := values.Get(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	signature := values.Get("X-Amz-Signature")
	values.Del("X-Amz-Signature")
	hash := func(text string) string {
		sum := sha256.Sum256([]byte(text))
		return hex.EncodeToString(sum[:])
	}
	canonical := strings.Join([]string{
		"GET", "/", strings.ReplaceAll(values.Encode(), "+", "%20"), "host:" + endpoint, "", "host", hash(""),
	}, "\n")
	key := []byte("AWS4" + secretKey)
	for _, text := range []string{date[:8], region, "rds-db", "aws4_request", "AWS4-HMAC-SHA256\n" + date + "\n" + scope + "\n" + hash(canonical)} {
		mac := hmac.New(sha256.New, key)
		mac.Write([]byte(text))
		key = mac.Sum(nil)
	}
	if want := hex.EncodeToString(key); signature != want {
		t.Errorf("the signature is %s, want %s", signature, want)
	}
}

// expectSigned fails unless AWS gives credentials that sign a token.
func expectSigned(t *testing.T, p *Providers, auth config.CloudAuth, keyID, session string, lifetime time.Duration) {
	t.Helper()
	grant, err := fetch(t, p, auth)
	if err != nil {
		t.Fatal(err)
	}
	expectLifetime(t, grant, lifetime)
	token, err := grant.Password(Endpoint{"orders.abc.eu-west-1.rds.amazonaws.com", 5433, "live ness+1"})
	if err != nil {
		t.Fatal(err)
	}
	checkSigned(t, string(token), "orders.abc.eu-west-1.rds.amazonaws.com:5433", "live ness+1", "eu-west-1", keyID, secret+"key", session)
}

// awsKeys are what a service of credentials answers, in JSON.
func awsKeys(keyID string, lifetime time.Duration) string {
	return fmt.Sprintf(`{"Code": "Success", "Type": "AWS-HMAC", "AccessKeyId": %q, "SecretAccessKey": "%skey", "Token": "%stoken", "Expiration": %q}`,
		keyID, secret, secret, time.Now().Add(lifetime).UTC().Format(time.RFC3339))
}

// fakeSTS answers for the STS API action with keys that live for an hour.
func fakeSTS(t *testing.T, action string, want map[string]string) string {
	t.Helper()
	return fake(t, func(w http.ResponseWriter, r *http.Request) {
		want["Action"] = action
		for name, value := range want {
			if !expect(t, w, name, r.FormValue(name), value) {
				return
			}
		}
		if signed := strings.HasPrefix(r.Header.Get("Authorization"), "AWS4-HMAC-SHA256 Credential=AKIDBASE/"); signed != (action == "AssumeRole") {
			t.Errorf("%s: signed: %v", action, signed)
		}
		fmt.Fprintf(w, `<%[1]sResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><%[1]sResult><Credentials><AccessKeyId>AKIDSTS</AccessKeyId>`+
			`<SecretAccessKey>%[2]skey</SecretAccessKey><SessionToken>%[2]stoken</SessionToken><Expiration>%[3]s</Expiration></Credentials>`+
			`<AssumedRoleUser><Arn>arn:aws:sts::1:assumed-role/r/s</Arn><AssumedRoleId>A:s</AssumedRoleId></AssumedRoleUser></%[1]sResult></%[1]sResponse>`,
			action, secret, time.Now().Add(time.Hour).UTC().Format(time.RFC3339))
	}).URL
}

// TestAWS: each way to credentials that a pod or a machine of AWS has, from the variables that it has.
func TestAWS(t *testing.T) {
	auth := config.CloudAuth{Provider: config.ProviderAWS, Region: "eu-west-1"}
	t.Run("static keys", func(t *testing.T) {
		p := providersWith(t, map[string]string{"AWS_ACCESS_KEY_ID": "AKID", "AWS_SECRET_ACCESS_KEY": secret + "key"}, nil)
		expectSigned(t, p, auth, "AKID", "", staticLifetime)
	})
	t.Run("static keys with a session, and the region of the environment", func(t *testing.T) {
		p := providersWith(t, map[string]string{
			"AWS_ACCESS_KEY_ID": "AKID", "AWS_SECRET_ACCESS_KEY": secret + "key", "AWS_SESSION_TOKEN": "s+/=", "AWS_REGION": "eu-west-1",
		}, nil)
		expectSigned(t, p, config.CloudAuth{Provider: config.ProviderAWS}, "AKID", "s+/=", staticLifetime)
	})
	t.Run("the region of the servers and not of the environment", func(t *testing.T) {
		p := providersWith(t, map[string]string{
			"AWS_ACCESS_KEY_ID": "AKID", "AWS_SECRET_ACCESS_KEY": secret + "key", "AWS_REGION": "us-east-1",
		}, nil)
		expectSigned(t, p, auth, "AKID", "", staticLifetime)
	})
	t.Run("a profile", func(t *testing.T) {
		p := providersWith(t, map[string]string{
			"AWS_PROFILE": "liveness", "AWS_SHARED_CREDENTIALS_FILE": write(t, "[liveness]\naws_access_key_id = AKID\naws_secret_access_key = "+secret+"key\n"),
		}, nil)
		expectSigned(t, p, auth, "AKID", "", staticLifetime)
	})
	t.Run("web identity of a pod (EKS, IRSA)", func(t *testing.T) {
		sts := fakeSTS(t, "AssumeRoleWithWebIdentity", map[string]string{"WebIdentityToken": secret + "jwt", "RoleArn": "arn:aws:iam::1:role/liveness"})
		p := providersWith(t, map[string]string{
			"AWS_WEB_IDENTITY_TOKEN_FILE": write(t, secret+"jwt"), "AWS_ROLE_ARN": "arn:aws:iam::1:role/liveness", "AWS_ENDPOINT_URL_STS": sts,
			"AWS_REGION": "eu-west-1", "AWS_STS_REGIONAL_ENDPOINTS": "regional",
		}, nil)
		expectSigned(t, p, auth, "AKIDSTS", secret+"token", time.Hour)
	})
	t.Run("a role to assume", func(t *testing.T) {
		sts := fakeSTS(t, "AssumeRole", map[string]string{"RoleArn": "arn:aws:iam::2:role/other", "RoleSessionName": "pg_liveness_exporter"})
		p := providersWith(t, map[string]string{"AWS_ACCESS_KEY_ID": "AKIDBASE", "AWS_SECRET_ACCESS_KEY": "x", "AWS_ENDPOINT_URL_STS": sts}, nil)
		other := auth
		other.RoleARN = "arn:aws:iam::2:role/other"
		expectSigned(t, p, other, "AKIDSTS", secret+"token", time.Hour)
	})
	t.Run("pod identity (EKS)", func(t *testing.T) {
		agent := fake(t, func(w http.ResponseWriter, r *http.Request) {
			if expect(t, w, "path", r.URL.Path, "/v1/credentials") && expect(t, w, "authorization", r.Header.Get("Authorization"), secret+"jwt") {
				fmt.Fprint(w, awsKeys("AKIDPOD", 6*time.Hour))
			}
		})
		p := providersWith(t, map[string]string{
			"AWS_CONTAINER_CREDENTIALS_FULL_URI": agent.URL + "/v1/credentials", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": write(t, secret+"jwt"),
		}, nil)
		expectSigned(t, p, auth, "AKIDPOD", secret+"token", 6*time.Hour)
	})
	t.Run("a task (ECS)", func(t *testing.T) {
		agent := fake(t, func(w http.ResponseWriter, r *http.Request) {
			if expect(t, w, "host", r.Host, "169.254.170.2") && expect(t, w, "path", r.URL.Path, "/v2/credentials/1") {
				fmt.Fprint(w, awsKeys("AKIDTASK", 6*time.Hour))
			}
		})
		p := providersWith(t, map[string]string{"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "/v2/credentials/1"}, agent)
		expectSigned(t, p, auth, "AKIDTASK", secret+"token", 6*time.Hour)
	})
	t.Run("a machine (IMDSv2)", func(t *testing.T) {
		imds := fake(t, func(w http.ResponseWriter, r *http.Request) {
			const folder = "/latest/meta-data/iam/security-credentials/"
			switch {
			case r.Method == http.MethodPut && r.URL.Path == "/latest/api/token":
				w.Header().Set("X-Aws-Ec2-Metadata-Token-Ttl-Seconds", r.Header.Get("X-Aws-Ec2-Metadata-Token-Ttl-Seconds"))
				fmt.Fprint(w, secret+"imds")
			case !expect(t, w, "token", r.Header.Get("X-Aws-Ec2-Metadata-Token"), secret+"imds"):
			case r.URL.Path == folder:
				fmt.Fprint(w, "liveness-role")
			case expect(t, w, "path", r.URL.Path, folder+"liveness-role"):
				fmt.Fprint(w, awsKeys("AKIDEC2", 6*time.Hour))
			}
		})
		p := providersWith(t, map[string]string{"AWS_EC2_METADATA_DISABLED": "", "AWS_EC2_METADATA_SERVICE_ENDPOINT": imds.URL}, nil)
		expectSigned(t, p, auth, "AKIDEC2", secret+"token", time.Hour) // the SDK asks again after an hour
	})
}

// TestAWSErrors: the error says in words what is missing.
func TestAWSErrors(t *testing.T) {
	auth := config.CloudAuth{Provider: config.ProviderAWS, Region: "eu-west-1"}
	refusing := fake(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusForbidden)
		fmt.Fprintf(w, `<ErrorResponse><Error><Type>Sender</Type><Code>AccessDenied</Code><Message>%s</Message></Error></ErrorResponse>`, secret)
	})
	odd := fake(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusForbidden)
		fmt.Fprintf(w, `<ErrorResponse><Error><Code>%s odd</Code><Message>%s</Message></Error></ErrorResponse>`, secret, secret)
	})
	token := map[string]string{"AWS_WEB_IDENTITY_TOKEN_FILE": write(t, secret), "AWS_ROLE_ARN": "arn:aws:iam::1:role/" + secret}
	with := func(name, value string) map[string]string {
		env := map[string]string{name: value}
		for name, value := range token {
			env[name] = value
		}
		return env
	}
	for _, test := range []struct {
		name string
		env  map[string]string
		want string
	}{
		{"nothing", nil, "no AWS credentials found"},
		{"no metadata service", map[string]string{"AWS_EC2_METADATA_DISABLED": ""}, "no AWS credentials found"},
		{"STS refuses", with("AWS_ENDPOINT_URL_STS", refusing.URL), "AWS refuses the identity (AccessDenied)"},
		{"STS refuses with an odd code", with("AWS_ENDPOINT_URL_STS", odd.URL), "AWS refuses the identity"},
		{"no STS", with("AWS_ENDPOINT_URL_STS", "http://127.0.0.1:1"), "AWS STS cannot be reached"},
		{
			"no token file",
			map[string]string{"AWS_WEB_IDENTITY_TOKEN_FILE": "/nonexistent/" + secret, "AWS_ROLE_ARN": "arn:aws:iam::1:role/r"},
			"the file of the AWS web identity token cannot be read: no such file or directory",
		},
		{"no profile", map[string]string{"AWS_PROFILE": secret}, "the AWS profile does not exist, or is not complete"},
	} {
		t.Run(test.name, func(t *testing.T) { expectError(t, providersWith(t, test.env, nil), auth, test.want) })
	}
	t.Run("no region", func(t *testing.T) {
		p := providersWith(t, map[string]string{"AWS_ACCESS_KEY_ID": "AKID", "AWS_SECRET_ACCESS_KEY": secret}, nil)
		expectError(t, p, config.CloudAuth{Provider: config.ProviderAWS}, "no AWS region found: set region in cloud_auth, or AWS_REGION")
	})
}

// TestSigner: a token is the same until it is renewed, which is before its signature ends. Each server and role has its own.
func TestSigner(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &signer{credentials: aws.Credentials{AccessKeyID: "AKID", SecretAccessKey: "x"}, region: "eu-west-1", tokens: make(map[Endpoint]signed)}
		token := func(host string, user string) config.Secret {
			t.Helper()
			got, err := s.password(Endpoint{host, 5432, user})
			if err != nil {
				t.Fatal(err)
			}
			return got
		}
		first := token("h", "u")
		if token("h2", "u") == first || token("h", "u2") == first {
			t.Error("two servers have one token")
		}
		time.Sleep(tokenAge - time.Second)
		if token("h", "u") != first {
			t.Error("the token changes with each login")
		}
		time.Sleep(time.Second)
		if token("h", "u") == first {
			t.Error("an old token is used")
		}
		for i := range 2 * maxTokens {
			token(fmt.Sprint(i), "u")
		}
		if n := len(s.tokens); n > maxTokens {
			t.Errorf("%d tokens are kept", n)
		}
	})
}

// TestRegionOf: the region is in the names of RDS and Aurora.
func TestRegionOf(t *testing.T) {
	t.Parallel()
	for host, want := range map[string]string{
		"orders.abc123.eu-west-1.rds.amazonaws.com":                "eu-west-1",
		"orders.cluster-ro-abc123.us-gov-east-1.rds.amazonaws.com": "us-gov-east-1",
		"orders.proxy-abc123.ap-southeast-2.rds.amazonaws.com.":    "ap-southeast-2",
		"orders.abc123.rds.cn-north-1.amazonaws.com.cn":            "cn-north-1",
		"orders.abc123.cn-north-1.rds.amazonaws.com.cn":            "cn-north-1",

		"orders.example.org": "",
		"10.0.0.1":           "",
		"":                   "",
		"eu-west-1.rds.amazonaws.com.example.org": "",
	} {
		if got := Resolve(config.CloudAuth{Provider: config.ProviderAWS}, host).Region; got != want {
			t.Errorf("%s: %q, want %q", host, got, want)
		}
	}
	if got := Resolve(config.CloudAuth{Provider: config.ProviderAWS, Region: "eu-west-1"}, "a.b.us-east-1.rds.amazonaws.com").Region; got != "eu-west-1" {
		t.Errorf("a region that is set: %s", got)
	}
	if got := Resolve(config.CloudAuth{Provider: config.ProviderGCP}, "a.b.us-east-1.rds.amazonaws.com").Region; got != "" {
		t.Errorf("of another cloud: %s", got)
	}
}
