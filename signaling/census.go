package signaling

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// A census counts what the store holds when metrics are asked for, and not more often than every
// censusEvery: it reads a record for each account, device and mailbox.
type census struct {
	server *Server

	mu   sync.Mutex
	at   time.Time
	last State
	err  error
}

const censusEvery = 15 * time.Second

var (
	accountsDesc = prometheus.NewDesc("sotto_signaling_accounts",
		"Accounts, by whether their operator has disabled them.", []string{"state"}, nil)
	devicesDesc = prometheus.NewDesc("sotto_signaling_devices",
		"Devices of all accounts.", nil, nil)
	mailboxesDesc = prometheus.NewDesc("sotto_signaling_mailboxes",
		"Mailboxes in which something waits.", nil, nil)
	waitingDesc = prometheus.NewDesc("sotto_signaling_mailbox_envelopes",
		"Envelopes that wait in mailboxes.", nil, nil)
	waitingBytesDesc = prometheus.NewDesc("sotto_signaling_mailbox_bytes",
		"Bytes of the envelopes that wait in mailboxes.", nil, nil)
	storeBytesDesc = prometheus.NewDesc("sotto_signaling_store_bytes",
		"Bytes that the store takes on its disk.", nil, nil)
	freeBytesDesc = prometheus.NewDesc("sotto_signaling_disk_free_bytes",
		"Bytes free where the store is.", nil, nil)
)

func (c *census) Describe(all chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		accountsDesc, devicesDesc, mailboxesDesc, waitingDesc, waitingBytesDesc,
		storeBytesDesc, freeBytesDesc,
	} {
		all <- d
	}
}

func (c *census) Collect(all chan<- prometheus.Metric) {
	now, ok := c.take()
	if !ok {
		return
	}
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		all <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	t := now.Totals
	gauge(accountsDesc, float64(t.Accounts-t.Disabled), "enabled")
	gauge(accountsDesc, float64(t.Disabled), "disabled")
	gauge(devicesDesc, float64(t.Devices))
	gauge(mailboxesDesc, float64(t.Mailboxes))
	gauge(waitingDesc, float64(t.Waiting.Envelopes))
	gauge(waitingBytesDesc, float64(t.Waiting.Bytes))
	gauge(storeBytesDesc, float64(now.StoreBytes))
	gauge(freeBytesDesc, float64(now.FreeBytes))
}

// take counts again if it is time to. A server that stops counts no more: its store closes.
func (c *census) take() (State, bool) {
	s := c.server
	if !s.enter() {
		return State{}, false
	}
	defer s.running.Done()
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := s.now(); c.at.IsZero() || now.Sub(c.at).Abs() >= censusEvery {
		c.last, c.err = s.State()
		c.at = now
		if c.err != nil {
			s.asFailure(c.err) // logs
		}
	}
	return c.last, c.err == nil
}
