// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package check

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"pg_liveness_exporter/config"
)

// celery counts the workers that reply to a ping, or those that consume a queue. It asks them in the same way as Celery's
// own "inspect ping" and "inspect active_queues" do over Redis (kombu/pidbox.py and kombu/transport/redis.py): it publishes
// a message to a channel that every worker subscribes to, and reads the replies from a queue of its own.
type celery struct {
	dependency
	// identity is part of the name of the reply queue. It stays the same for the life of the checker, so that the next
	// run finds and drops replies that came too late.
	identity string
}

const (
	celeryExchange = "celery.pidbox"
	replyExchange  = "reply." + celeryExchange
	// kombuSeparator separates routing key, pattern and queue in a binding.
	kombuSeparator = "\x06\x16"
	// cleanupTimeout is the most that the removal of the reply queue may take. A run stops waiting for replies that
	// much before its deadline, or a quarter of the check's timeout before it if that is less.
	cleanupTimeout = 200 * time.Millisecond
	// pollInterval is the pause between two reads of an empty reply queue. A blocking read is not used: the connection
	// could not be used again if the deadline passed during the read, and Redis before version 6 accepts only whole
	// seconds as its timeout.
	pollInterval = 20 * time.Millisecond
	// maxReplies and maxReplyBytes bound what a run reads from the reply queue, in replies and in bytes. A worker sends one
	// reply of about 500 bytes. Replies of an earlier run count too.
	maxReplies    = 10_000
	maxReplyBytes = 16 << 20
)

func newCelery(d dependency) *celery { return &celery{d, "pg_liveness_exporter." + rand.Text()} }

// replyQueue returns the key of the reply queue.
func (c *celery) replyQueue() string { return c.KeyPrefix + c.identity + "." + replyExchange }

// bindings returns the key of the set with the bindings of all reply queues.
func (c *celery) bindings() string { return c.KeyPrefix + "_kombu.binding." + replyExchange }

// binding returns the entry that routes replies with this routing key to the reply queue. It has no key prefix: kombu
// adds the prefix to the queue's name.
func (c *celery) binding() string {
	return strings.Join([]string{c.identity, "", c.identity + "." + replyExchange}, kombuSeparator)
}

// run returns the number of workers that count, through all brokers that can be reached: workers switch between several,
// and each uses one at a time. It fails if none can be reached.
func (c *celery) run(ctx context.Context) (number, error) {
	location, err := c.redis(ctx)
	if err != nil {
		return number{}, err
	}
	counts, problems := make([]int, len(location.Servers)), make([]error, len(location.Servers))
	var all sync.WaitGroup
	for i, server := range location.Servers {
		one := &celery{c.dependency, fmt.Sprintf("%s.%d", c.identity, i)} // a reply queue of its own: two may be one server
		all.Go(func() { counts[i], problems[i] = one.count(ctx, server) })
	}
	all.Wait()
	if !slices.Contains(problems, nil) {
		return number{}, problems[0]
	}
	total := 0
	for _, count := range counts {
		total += count
	}
	found := known(float64(total))
	found.words = c.words(total)
	return found, nil
}

// words says how many workers were found.
func (c *celery) words(count int) string {
	who := map[int]string{0: "no worker", 1: "1 worker"}[count]
	if who == "" {
		who = fmt.Sprintf("%d workers", count)
	}
	switch {
	case c.Queue == "":
		return who + " answered"
	case count > 1:
		return who + " consume the queue"
	}
	return who + " consumes the queue"
}

// count returns the number of workers that replied through one broker, or of those that consume the queue if the check has
// one. It returns once as many workers have replied as received the message. A stopped worker receives it but does not
// reply; count then returns shortly before the deadline of ctx.
func (c *celery) count(ctx context.Context, broker config.RedisServer) (int, error) {
	conn, err := c.dialRedis(ctx, broker)
	if err != nil {
		return 0, err
	}
	defer conn.close()
	ticket := rand.Text()
	method := "ping"
	if c.Queue != "" {
		method = "active_queues"
	}
	message, err := c.message(method, map[string]any{}, ticket)
	if err != nil {
		return 0, err
	}
	defer c.cleanUp(ctx, conn, broker)
	if _, err := conn.do(ctx, "SADD", c.bindings(), c.binding()); err != nil {
		return 0, err
	}
	channel := c.KeyPrefix + "/" + strconv.Itoa(broker.Database) + "." + celeryExchange
	subscribers, err := conn.integer(ctx, "PUBLISH", channel, message)
	if err != nil {
		return 0, err
	}
	return c.collect(ctx, conn, ticket, subscribers)
}

// collect reads the replies with this ticket until as many workers have replied as received the message, or shortly before
// the deadline of ctx, and counts them.
func (c *celery) collect(ctx context.Context, conn *redisConn, ticket string, workers int64) (count int, err error) {
	deadline, _ := ctx.Deadline() // Checker.Run sets it
	reserved := min(cleanupTimeout, c.Timeout/4)
	replied := make(map[string]bool) // by delivery tag
	read, readBytes := 0, 0
	for int64(len(replied)) < workers && time.Until(deadline) > reserved {
		reply, err := conn.do(ctx, "RPOP", c.replyQueue())
		switch text, ok := reply.(string); {
		case err != nil:
			return 0, err
		case ok:
			if read, readBytes = read+1, readBytes+len(text); read > maxReplies || readBytes > maxReplyBytes {
				return 0, PublicError("its queue has more replies than workers send")
			}
			e, tag, ok := parseReply(text, ticket)
			if !ok || replied[tag] {
				continue
			}
			replied[tag] = true
			if consumes, err := c.counts(e); err != nil {
				return 0, err
			} else if consumes {
				count++
			}
		default:
			select {
			case <-ctx.Done():
				return 0, ctx.Err()
			case <-time.After(pollInterval):
			}
		}
	}
	return count, nil
}

// cleanUp removes the reply queue and its binding. It takes at most cleanupTimeout, even if ctx has ended. It opens
// another connection if conn cannot be used any more.
func (c *celery) cleanUp(ctx context.Context, conn *redisConn, broker config.RedisServer) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
	defer cancel()
	if conn.broken {
		var err error
		if conn, err = c.dialRedis(ctx, broker); err != nil {
			return // the next run removes them
		}
		defer conn.close()
	}
	_, _ = conn.do(ctx, "SREM", c.bindings(), c.binding())
	_, _ = conn.do(ctx, "DEL", c.replyQueue())
}

// envelope is a message in the format of kombu's virtual transports.
type envelope struct {
	Body            string         `json:"body"`
	ContentEncoding string         `json:"content-encoding"`
	ContentType     string         `json:"content-type"`
	Headers         map[string]any `json:"headers"`
	Properties      map[string]any `json:"properties"`
}

// message returns a message that makes each worker run a command and send one reply with this ticket.
func (c *celery) message(method string, arguments map[string]any, ticket string) (string, error) {
	body, err := json.Marshal(map[string]any{
		"method": method, "arguments": arguments, "destination": nil, "pattern": nil, "matcher": nil,
		"ticket": ticket, "reply_to": map[string]string{"exchange": replyExchange, "routing_key": c.identity},
	})
	if err != nil {
		return "", err
	}
	message, err := json.Marshal(envelope{
		Body: base64.StdEncoding.EncodeToString(body), ContentEncoding: "utf-8", ContentType: "application/json",
		Headers: map[string]any{"clock": 1, "expires": float64(time.Now().Add(c.Timeout).UnixMilli()) / 1e3},
		Properties: map[string]any{
			"delivery_mode": 1, "delivery_info": map[string]string{"exchange": celeryExchange, "routing_key": ""},
			"priority": 0, "body_encoding": "base64", "delivery_tag": rand.Text(),
		},
	})
	return string(message), err
}

// parseReply returns a worker's reply with its delivery tag, which differs between replies. It reports false if message is
// not a reply with this ticket. It does not read the body, whose format depends on the worker's settings.
func parseReply(message, ticket string) (e envelope, tag string, ok bool) {
	if json.Unmarshal([]byte(message), &e) != nil || e.Headers["ticket"] != ticket {
		return e, "", false
	}
	tag, ok = e.Properties["delivery_tag"].(string)
	return e, tag, ok
}

// counts reports whether the worker of a reply counts. The reply to active_queues has the worker's name and its queues
// (celery/worker/control.py).
func (c *celery) counts(e envelope) (bool, error) {
	if c.Queue == "" {
		return true, nil
	}
	if e.ContentType != "application/json" {
		return false, PublicError("a worker does not reply in JSON, since its task_serializer is another one")
	}
	body, err := base64.StdEncoding.DecodeString(e.Body)
	if err != nil || e.Properties["body_encoding"] != "base64" {
		return false, errUnexpectedReply
	}
	var workers map[string][]struct{ Name string }
	if err := json.Unmarshal(body, &workers); err != nil {
		return false, errUnexpectedReply
	}
	for _, queues := range workers {
		for _, queue := range queues {
			if queue.Name == c.Queue {
				return true, nil
			}
		}
	}
	return false, nil
}
