// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package check

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"strconv"
	"strings"
	"time"
)

// celery counts the workers that answer a ping. It is sent, and answered, as Celery's own "inspect ping" does it through
// Redis (kombu/pidbox.py and kombu/transport/redis.py): published to a channel that every worker listens to, with a queue of
// ours for the answers.
type celery struct {
	dependency
	// identity names the queue for answers. It stays the same, so that an answer that came too late is found and dropped.
	identity string
}

const (
	celeryExchange = "celery.pidbox"
	replyExchange  = "reply." + celeryExchange
	// kombuSeparator stands between routing key, pattern and queue in a binding.
	kombuSeparator = "\x06\x16"
	// cleaningTime is what removing the queue may take, and kept back for it.
	cleaningTime = 200 * time.Millisecond
	// listenEvery is the pause between two looks for answers. One command that waits would leave a connection of which nothing
	// more can be asked when time is over, and takes fractions of a second only from Redis 6 on.
	listenEvery = 20 * time.Millisecond
)

func newCelery(d dependency) *celery { return &celery{d, "pg_liveness_exporter." + rand.Text()} }

func (c *celery) queue() string    { return c.KeyPrefix + c.identity + "." + replyExchange }
func (c *celery) bindings() string { return c.KeyPrefix + "_kombu.binding." + replyExchange }

// binding says that answers with our routing key go to our queue; kombu adds the prefix to the name.
func (c *celery) binding() string {
	return strings.Join([]string{c.identity, "", c.identity + "." + replyExchange}, kombuSeparator)
}

// ask waits until as many workers have answered as got the ping. One that is stopped got it as well, so that waiting ends
// with ctx then.
func (c *celery) ask(ctx context.Context) (number, error) {
	conn, err := dialRedis(ctx, c.dependency)
	if err != nil {
		return number{}, err
	}
	defer conn.close()
	u, err := c.url()
	if err != nil {
		return number{}, err
	}
	ticket := rand.Text()
	message, err := c.ping(ticket)
	if err != nil {
		return number{}, err
	}
	defer c.clean(ctx, conn)
	if _, err := conn.do(ctx, "SADD", c.bindings(), c.binding()); err != nil {
		return number{}, err
	}
	channel := c.KeyPrefix + "/" + strconv.Itoa(database(u)) + "." + celeryExchange
	listeners, err := conn.number(ctx, "PUBLISH", channel, message)
	if err != nil {
		return number{}, err
	}
	deadline, _ := ctx.Deadline() // Check.Ask's
	kept := min(cleaningTime, c.Timeout/4)
	answers := make(map[string]bool)
	for int64(len(answers)) < listeners && time.Until(deadline) > kept {
		answer, err := conn.do(ctx, "RPOP", c.queue())
		switch text, ok := answer.(string); {
		case err != nil:
			return number{}, err
		case ok:
			if tag, ok := answered(text, ticket); ok {
				answers[tag] = true
			}
		default:
			time.Sleep(listenEvery)
		}
	}
	return measured(float64(len(answers))), nil
}

// clean removes our queue, over another connection where that one cannot be used any more.
func (c *celery) clean(ctx context.Context, conn *redisConn) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleaningTime)
	defer cancel()
	if conn.broken {
		var err error
		if conn, err = dialRedis(ctx, c.dependency); err != nil {
			return // the next time does it
		}
		defer conn.close()
	}
	_, _ = conn.do(ctx, "SREM", c.bindings(), c.binding())
	_, _ = conn.do(ctx, "DEL", c.queue())
}

// envelope is a message as kombu's virtual transports have it.
type envelope struct {
	Body            string         `json:"body"`
	ContentEncoding string         `json:"content-encoding"`
	ContentType     string         `json:"content-type"`
	Headers         map[string]any `json:"headers"`
	Properties      map[string]any `json:"properties"`
}

// ping is a message that asks each worker for an answer with this ticket.
func (c *celery) ping(ticket string) (string, error) {
	body, err := json.Marshal(map[string]any{
		"method": "ping", "arguments": map[string]any{}, "destination": nil, "pattern": nil, "matcher": nil, "ticket": ticket,
		"reply_to": map[string]string{"exchange": replyExchange, "routing_key": c.identity},
	})
	if err != nil {
		return "", err
	}
	message, err := json.Marshal(envelope{
		Body: base64.StdEncoding.EncodeToString(body), ContentEncoding: "utf-8", ContentType: "application/json",
		Headers: map[string]any{"clock": 1, "expires": float64(time.Now().Add(c.Timeout).UnixMilli()) / 1e3},
		Properties: map[string]any{
			"delivery_mode": 1, "delivery_info": map[string]string{"exchange": celeryExchange, "routing_key": ""}, "priority": 0,
			"body_encoding": "base64", "delivery_tag": rand.Text(),
		},
	})
	return string(message), err
}

// answered tells one worker's answer to this ticket from another's. The body, which a worker may write in any format that Celery
// is told to use, is not needed: only an answer has the ticket.
func answered(message, ticket string) (tag string, ok bool) {
	var e envelope
	if json.Unmarshal([]byte(message), &e) != nil || e.Headers["ticket"] != ticket {
		return "", false
	}
	tag, ok = e.Properties["delivery_tag"].(string)
	return tag, ok
}
