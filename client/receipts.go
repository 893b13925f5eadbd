package client

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"sotto/e2ee/ratchet"
	"sotto/wire"
)

// Receipts tell accepted contacts that their messages arrived: the device that sent them. They also tell when this device is there, so they
// go to nobody else, and late by a random time in which several become one.
const (
	minReceiptDelay = 50 * time.Millisecond
	maxReceiptDelay = 500 * time.Millisecond

	// maxReceiptsWaiting is how many envelopes of them wait in the outbox for one contact: who lets their mailbox run full, and goes on
	// writing, must not fill this disk.
	maxReceiptsWaiting = 64
)

// receipts are those not sent yet. They are kept in memory only: after a crash the sender just never hears.
type receipts struct {
	mu      sync.Mutex
	pending map[ratchet.Address][][]byte
	some    chan struct{} // has room for one
}

func (r *receipts) init() {
	r.pending = map[ratchet.Address][][]byte{}
	r.some = make(chan struct{}, 1)
}

func (r *receipts) add(to ratchet.Address, message []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.pending[to] = append(r.pending[to], message)
	select {
	case r.some <- struct{}{}:
	default:
	}
}

func (r *receipts) take() map[ratchet.Address][][]byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	taken := r.pending
	r.pending = map[ratchet.Address][][]byte{}
	return taken
}

func (c *Client) sendReceipts(ctx context.Context) {
	for {
		select {
		case <-c.receipts.some:
		case <-ctx.Done():
			return
		}
		select {
		case <-time.After(minReceiptDelay + rand.N(maxReceiptDelay-minReceiptDelay)):
		case <-ctx.Done():
			return
		}
		for to, messages := range c.receipts.take() {
			for len(messages) > 0 {
				n := min(len(messages), maxReceipts)
				c.sendReceipt(to, messages[:n])
				messages = messages[n:]
			}
		}
	}
}

func (c *Client) sendReceipt(to ratchet.Address, messages [][]byte) {
	c.mu.Lock()
	waiting := 0
	for _, entry := range c.outbox.entries {
		if entry.address() == to && entry.Message == (MessageID{}) && entry.Expires.IsZero() {
			waiting++
		}
	}
	c.mu.Unlock()
	if waiting >= maxReceiptsWaiting {
		c.log.Warn("a receipt was not sent: too many wait for the contact already")
		return
	}
	content := c.newContent()
	content.Body = &wire.Content_Receipt{Receipt: &wire.Receipt{Kind: wire.Receipt_DELIVERED, MessageIds: messages}}
	if err := c.sendTo(to.Account, to.Device, content, outgoing{}); err != nil && err != errNoContact { // removed meanwhile
		c.log.Warn("a receipt was not sent", "error", err)
	}
}
