// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package check

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/url"
	"strings"
	"time"

	"github.com/gomodule/redigo/redis"

	"pg_liveness_exporter/config"
)

// celery counts the workers that answer a ping. It is sent, and answered, as Celery's own "inspect ping" does it through
// Redis (kombu/pidbox.py and kombu/transport/redis.py): published to a channel that every worker listens to, with a queue of
// ours for the answers.
type celery struct {
	*config.Check
	// identity names the queue for answers. It stays the same, so that an answer that came too late is found and dropped.
	identity string
}

const (
	celeryExchange = "celery.pidbox"
	replyExchange  = "reply." + celeryExchange
	// kombuSeparator stands between routing key, pattern and queue in a binding.
	kombuSeparator = "\x06\x16"
	// cleaningTime is kept back to remove the queue in.
	cleaningTime = 200 * time.Millisecond
)

func newCelery(c *config.Check) *celery { return &celery{c, "pg_liveness_exporter." + rand.Text()} }

// ask waits until as many workers have answered as got the ping. One that is stopped got it as well, so that waiting ends
// with ctx then.
func (c *celery) ask(ctx context.Context) (number, error) {
	conn, err := dialRedis(ctx, c.Check)
	if err != nil {
		return number{}, err
	}
	defer func() { _ = conn.Close() }() // all was read
	database, err := c.database()
	if err != nil {
		return number{}, err
	}
	var (
		queue    = c.identity + "." + replyExchange
		bindings = "_kombu.binding." + replyExchange
		binding  = strings.Join([]string{c.identity, "", queue}, kombuSeparator)
	)
	ticket := rand.Text()
	message, err := c.ping(ticket, time.Now().Add(c.Timeout))
	if err != nil {
		return number{}, err
	}
	if _, err := redis.DoContext(conn, ctx, "SADD", bindings, binding); err != nil {
		return number{}, redisError(err)
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleaningTime)
		defer cancel()
		_, _ = redis.DoContext(conn, ctx, "SREM", bindings, binding) // the next time does it again
		_, _ = redis.DoContext(conn, ctx, "DEL", queue)
	}()
	listeners, err := redis.Int(redis.DoContext(conn, ctx, "PUBLISH", "/"+database+"."+celeryExchange, message))
	if err != nil {
		return number{}, redisError(err)
	}
	answered := make(map[string]bool)
	for len(answered) < listeners {
		deadline, _ := ctx.Deadline()
		left := time.Until(deadline) - cleaningTime
		if left < time.Millisecond {
			break
		}
		answer, err := redis.ByteSlices(redis.DoContext(conn, ctx, "BRPOP", queue, left.Seconds()))
		if errors.Is(err, redis.ErrNil) {
			break
		}
		if err != nil {
			return number{}, redisError(err)
		}
		for _, worker := range pongs(answer[len(answer)-1], ticket) {
			answered[worker] = true
		}
	}
	return measured(float64(len(answered))), nil
}

// database is the number of the broker's, which is part of the channel's name.
func (c *celery) database() (string, error) {
	text, err := where(c.Check)
	if err != nil {
		return "", err
	}
	u, err := url.Parse(text)
	if err != nil {
		return "", Problem("its URL cannot be used")
	}
	if database := strings.Trim(u.Path, "/"); database != "" {
		return database, nil
	}
	return "0", nil
}

// envelope is a message as kombu's virtual transports have it.
type envelope struct {
	Body            string         `json:"body"`
	ContentEncoding string         `json:"content-encoding"`
	ContentType     string         `json:"content-type"`
	Headers         map[string]any `json:"headers"`
	Properties      map[string]any `json:"properties"`
}

// ping is a message that asks each worker for an answer with this ticket. A worker that gets it late does not answer.
func (c *celery) ping(ticket string, expires time.Time) ([]byte, error) {
	body, err := json.Marshal(map[string]any{
		"method": "ping", "arguments": map[string]any{}, "destination": nil, "pattern": nil, "matcher": nil, "ticket": ticket,
		"reply_to": map[string]string{"exchange": replyExchange, "routing_key": c.identity},
	})
	if err != nil {
		return nil, err
	}
	return json.Marshal(envelope{
		Body: base64.StdEncoding.EncodeToString(body), ContentEncoding: "utf-8", ContentType: "application/json",
		Headers: map[string]any{"clock": 1, "expires": float64(expires.UnixMilli()) / 1e3},
		Properties: map[string]any{
			"delivery_mode": 1, "delivery_info": map[string]string{"exchange": celeryExchange, "routing_key": ""}, "priority": 0,
			"body_encoding": "base64", "delivery_tag": rand.Text(),
		},
	})
}

// pongs are the workers that a message says to have answered this ticket: {"celery@host": {"ok": "pong"}}.
func pongs(message []byte, ticket string) []string {
	var e envelope
	if json.Unmarshal(message, &e) != nil || e.Headers["ticket"] != ticket {
		return nil
	}
	body := []byte(e.Body)
	if e.Properties["body_encoding"] == "base64" {
		decoded, err := base64.StdEncoding.DecodeString(e.Body)
		if err != nil {
			return nil
		}
		body = decoded
	}
	var answers map[string]struct{ OK string }
	if json.Unmarshal(body, &answers) != nil {
		return nil
	}
	var workers []string
	for worker, answer := range answers {
		if answer.OK == "pong" {
			workers = append(workers, worker)
		}
	}
	return workers
}
