// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package check

import (
	"context"
	"errors"
	"net"
	"time"

	"pg_liveness_exporter/config"
)

// redis sends PING, or reads the length of a key if the check has length_of.
type redis struct{ dependency }

func (c *redis) run(ctx context.Context) (number, error) {
	location, err := c.redis(ctx)
	if err != nil {
		return number{}, err
	}
	conn, err := c.dialRedis(ctx, location.Servers[0])
	if err != nil {
		return number{}, err
	}
	defer conn.close()
	if c.LengthOf == "" {
		reply, err := conn.do(ctx, "PING")
		if err == nil && reply != "PONG" {
			err = errUnexpectedReply
		}
		return number{}, err
	}
	reply, err := conn.do(ctx, "TYPE", c.LengthOf)
	if err != nil {
		return number{}, err
	}
	kind, _ := reply.(string)
	command, ok := map[string]string{"list": "LLEN", "stream": "XLEN", "set": "SCARD", "zset": "ZCARD"}[kind]
	switch {
	case kind == "none": // Redis has no key for an empty list
		return known(0), nil
	case !ok:
		return number{}, PublicError("the key is no list, stream, set or sorted set")
	}
	length, err := conn.integer(ctx, command, c.LengthOf)
	if err != nil {
		return number{}, err
	}
	return known(float64(length)), nil
}

// redis returns where the servers of a check are. If the URL is that of sentinels, it asks them for the master.
func (d dependency) redis(ctx context.Context) (*config.RedisLocation, error) {
	text, err := d.location()
	if err != nil {
		return nil, err
	}
	l, err := d.ParseRedis(text)
	if err != nil { // cannot happen: Source returns a valid URL
		return nil, PublicError("its URL cannot be used")
	}
	if len(l.Sentinels) == 0 {
		return l, nil
	}
	s := &l.Servers[0]
	s.Network = "tcp"
	s.Address, err = d.findMaster(ctx, l)
	return l, err
}

// findMaster returns the address of the master that the first sentinel knows that has an answer
// (redis.io/docs/latest/develop/reference/sentinel-clients). Each sentinel gets its share of the time until the end of ctx,
// and the master another one.
func (d dependency) findMaster(ctx context.Context, l *config.RedisLocation) (string, error) {
	password, err := d.read(d.SentinelPassword)
	if err != nil {
		return "", err
	}
	deadline, _ := ctx.Deadline() // Checker.Run sets it
	var problem error
	unknown := false
	for i, address := range l.Sentinels {
		share := time.Until(deadline) / time.Duration(len(l.Sentinels)-i+1)
		master, err := d.askSentinel(ctx, share, config.RedisServer{
			Network: "tcp", Address: address, Username: d.SentinelUsername, Password: config.Secret(password), TLS: l.SentinelTLS,
		})
		switch {
		case err != nil && problem == nil:
			problem = err
		case err != nil:
		case master != "":
			return master, nil
		default:
			unknown = true
		}
	}
	if unknown {
		return "", PublicError("the sentinels know no master of this name")
	}
	return "", errors.Join(PublicError("no sentinel answered: "+describe(problem)), problem)
}

// askSentinel returns the address of the master, or an empty text if the sentinel knows no master of this name.
func (d dependency) askSentinel(ctx context.Context, timeout time.Duration, sentinel config.RedisServer) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	conn, err := d.dialRedis(ctx, sentinel)
	if err != nil {
		return "", err
	}
	defer conn.close()
	reply, err := conn.do(ctx, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", d.MasterName)
	if err != nil || reply == nil {
		return "", err
	}
	if address, ok := reply.([]string); ok && len(address) == 2 {
		return net.JoinHostPort(address[0], address[1]), nil
	}
	return "", errUnexpectedReply
}
