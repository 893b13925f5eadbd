package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	"sotto/e2ee/linking"
	"sotto/wire"
)

// The first device adds another (package linking; docs/protocol.md, "Further devices"):
//
//  1. Ask the server for the list that it holds, draw a code, and show it.
//  2. Open the code's slot, on every link anew: a request that waits comes with it.
//  3. Open the request, and ask the user.
//  4. Sign the list with the new device, and send all of it: after a lost answer the same bytes again. If nobody says that the server has
//     taken it, it is voided by a later one (owndevices.go).

const linkingTime = 10 * time.Minute // for which the server keeps a slot

// AddDeviceOptions are how AddDevice talks to the user.
type AddDeviceOptions struct {
	// Show gets the code that the user brings to the new device, for Link. Nobody else may see it.
	Show func(code string)

	// Confirm asks whether the device that shows these ten digits may be added.
	Confirm func(ctx context.Context, digits string) bool
}

// AddDevice adds a device to the account. Only the first device can, and the code works once, for ten minutes.
func (c *Client) AddDevice(ctx context.Context, o AddDeviceOptions) (Device, error) {
	if err := c.mayChangeDevices(); err != nil {
		return Device{}, err
	}
	if !c.changing.TryLock() {
		return Device{}, errors.New("a device is being added already")
	}
	defer c.endChange()
	ctx, cancel := context.WithTimeoutCause(ctx, linkingTime, errLinkingTime)
	defer cancel()
	own, err := c.settledList(ctx)
	if err != nil {
		return Device{}, err
	}
	if len(own.devices()) >= wire.MaxDevices {
		return Device{}, fmt.Errorf("an account has at most %d devices: remove one first", wire.MaxDevices)
	}
	a := &addition{c: c, o: o}
	if a.code, err = linking.NewCode(c.account.Server, [33]byte(c.identity.Public().Bytes())); err != nil {
		return Device{}, err
	}
	for {
		l, err := c.link.wait(ctx)
		if err == nil {
			err = a.over(ctx, l)
		}
		switch {
		case err == nil:
			return Device{ID: int(a.frame.Device.Id)}, c.adoptList(a.frame.DeviceList)
		case ctx.Err() != nil:
			return Device{}, context.Cause(ctx)
		case err != errLinkDown && !errors.Is(err, context.DeadlineExceeded) && !passing(err): // of one request
			return Device{}, err
		}
		select { // the next link, or what passes
		case <-time.After(max(minPause, retryAfter(err))):
		case <-ctx.Done():
		}
	}
}

var (
	errLinkingTime = errors.New("no device has asked in time: make a new code and try again")
	errDeclined    = errors.New("the device was not added")
)

// addition is AddDevice under way.
type addition struct {
	c     *Client
	o     AddDeviceOptions
	code  linking.Code
	shown bool
	frame *wire.AddDevice // as it is sent, once there is one
	blob  []byte          // the request that it answers
}

// over is steps 2 to 4 over one link.
func (a *addition) over(ctx context.Context, l *link) error {
	slot := a.code.Slot()
	_, err := l.request(ctx, &wire.ClientFrame{Body: &wire.ClientFrame_OpenLinking{OpenLinking: &wire.OpenLinking{Slot: slot[:]}}})
	if err != nil {
		return err
	}
	if !a.shown {
		a.shown = true
		a.o.Show(a.code.String())
	}
	if a.frame != nil { // its answer was lost, or it was before the server had the request again
		if err := a.send(ctx, l); !refused(err, wire.Error_FORBIDDEN) {
			return err
		}
	}
	for {
		var request *wire.LinkRequest
		select {
		case request = <-l.linkings:
		case <-l.over:
			return errLinkDown
		case <-ctx.Done():
			return ctx.Err()
		}
		if !bytes.Equal(request.GetSlot(), slot[:]) {
			continue // of an earlier code
		}
		if err := a.decide(ctx, request.GetBlob()); err != nil {
			_, _ = l.request(ctx, &wire.ClientFrame{Body: &wire.ClientFrame_DeclineLinking{DeclineLinking: &wire.DeclineLinking{Slot: slot[:]}}})
			return err
		}
		return a.send(ctx, l)
	}
}

// send is step 4.
func (a *addition) send(ctx context.Context, l *link) error {
	_, err := l.request(ctx, &wire.ClientFrame{Body: &wire.ClientFrame_AddDevice{AddDevice: a.frame}})
	if refused(err, wire.Error_CONFLICT) {
		return errors.New("the devices have changed meanwhile: make a new code and try again")
	}
	return err
}

// decide is step 3, and makes what is sent in step 4, unless that was made for this request before.
func (a *addition) decide(ctx context.Context, blob []byte) error {
	if a.frame != nil && bytes.Equal(a.blob, blob) {
		return nil
	}
	device, err := a.code.OpenRequest(blob)
	if err != nil {
		return err
	}
	if !a.o.Confirm(ctx, a.code.Digits([33]byte(device.IdentityKey))) {
		return errDeclined
	}
	if ctx.Err() != nil { // the user took longer than the code lasts
		return context.Cause(ctx)
	}
	c, slot := a.c, a.code.Slot()
	c.mu.Lock()
	defer c.mu.Unlock()
	own := c.ownContact()
	list := c.nextList(own)
	if list.LastId == wire.MaxDeviceID {
		return errors.New("this account has had as many devices as an account can have in its life: register another one")
	}
	list.LastId++
	device.Id = list.LastId
	list.Devices = append(list.Devices, &wire.DeviceList_Device{Id: device.Id, IdentityKey: device.IdentityKey})
	signed, err := c.signList(list)
	if err != nil {
		return err
	}
	private := [32]byte(c.account.Identity)
	defer clear(private[:])
	reply, err := a.code.SealReply(blob, &wire.Linked{
		Account: own.Account[:], Username: own.Username, Device: device.Id, IdentityKey: own.Identity,
		DeviceList: signed, DeliveryToken: c.sealing.Token, Contacts: c.linkedContacts(),
	}, &private)
	if err != nil {
		return err
	}
	a.frame, a.blob = &wire.AddDevice{Slot: slot[:], DeviceList: signed, Device: device, Reply: reply}, blob
	return nil
}

// adoptLinked stores the account that this device has joined, with what the first device says of contacts.
func adoptLinked(s *store, a *account, linked *wire.Linked) error {
	list, err := wire.ParseDeviceList(linked.DeviceList.GetList())
	if err != nil {
		return err
	}
	now := time.Now()
	own := &contact{
		Username: linked.Username, Account: uuid.UUID(linked.Account), Identity: linked.IdentityKey, Accepted: true, Added: now,
		Epoch: list.Epoch, List: linked.DeviceList.List, Signature: linked.DeviceList.Signature,
	}
	a.Account, a.Username, a.Device = own.Account, own.Username, uint8(linked.Device)
	return s.update(func(t *tx) error {
		t.delete(recordLinking)
		if err := putJSON(t, recordSealing, sealing{Token: linked.DeliveryToken, Told: true}); err != nil {
			return err
		}
		for _, l := range linked.Contacts {
			p := &contact{
				Username: l.Username, Account: uuid.UUID(l.Account), Identity: l.IdentityKey, Accepted: true, Verified: l.Verified,
				Token: l.DeliveryToken, Added: now, Epoch: l.DeviceListEpoch,
			}
			if err := p.write(t); err != nil {
				return err
			}
		}
		if err := own.write(t); err != nil {
			return err
		}
		return a.write(t)
	})
}

// parseLinked is the answer to a request, of a form that can be stored.
func parseLinked(code linking.Code, request, blob []byte, identity [33]byte) (*wire.Linked, error) {
	reply := new(wire.LinkReply)
	if err := proto.Unmarshal(blob, reply); err != nil {
		return nil, errProtocol
	}
	linked, err := code.OpenReply(request, reply.GetBlob(), identity)
	if err != nil {
		return nil, err
	}
	ok := validUsername(linked.Username) && len(linked.DeliveryToken) == wire.DeliveryTokenSize
	for _, p := range linked.Contacts {
		ok = ok && len(p.Account) == 16 && len(p.IdentityKey) == len(identity) && (p.Username == "" || validUsername(p.Username)) &&
			(len(p.DeliveryToken) == 0 || len(p.DeliveryToken) == wire.DeliveryTokenSize)
	}
	if !ok {
		return nil, linking.ErrRefused
	}
	return linked, nil
}
