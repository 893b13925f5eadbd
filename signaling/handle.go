package signaling

import (
	"errors"
	"time"

	"github.com/gorilla/websocket"
	"google.golang.org/protobuf/proto"

	"sotto/signaling/store"
	"sotto/wire"
)

// handle answers one frame of the device.
func (l *link) handle(kind int, message []byte) {
	frame, err := parseFrame(kind, message)
	if err != nil {
		l.fail(frame.GetId(), l.server.asFailure(err))
		return
	}
	if send := frame.GetSend(); send != nil {
		l.send(frame.Id, send) // answers later
		return
	}
	reply, err := l.answer(frame)
	switch {
	case err != nil:
		l.fail(frame.Id, l.server.asFailure(err))
	case reply != nil:
		l.reply(frame.Id, reply)
	}
}

func parseFrame(kind int, message []byte) (*wire.ClientFrame, error) {
	frame := &wire.ClientFrame{}
	if kind != websocket.BinaryMessage || proto.Unmarshal(message, frame) != nil {
		return nil, errMalformed
	}
	return frame, nil
}

// answer returns nil without an error for what has no answer.
func (l *link) answer(frame *wire.ClientFrame) (*wire.ServerFrame, error) {
	switch body := frame.GetBody().(type) {
	case *wire.ClientFrame_Ack:
		id, err := parseAck(body.Ack)
		if err != nil {
			return nil, err
		}
		return nil, l.acknowledge(id)
	case *wire.ClientFrame_UploadPreKeys:
		return l.upload(body.UploadPreKeys)
	case *wire.ClientFrame_FetchBundles:
		return l.fetch(body.FetchBundles)
	case *wire.ClientFrame_LookUp:
		return l.lookUp(body.LookUp)
	case *wire.ClientFrame_GetRelay:
		return l.relay()
	case *wire.ClientFrame_SetDeliveryToken:
		return l.setDeliveryToken(body.SetDeliveryToken)
	case *wire.ClientFrame_GetSenderCertificate:
		return l.senderCertificate()
	case *wire.ClientFrame_FetchDeviceList:
		return l.fetchDeviceList(body.FetchDeviceList)
	case *wire.ClientFrame_OpenLinking:
		return l.openLinking(body.OpenLinking)
	case *wire.ClientFrame_AddDevice:
		return l.addDevice(body.AddDevice)
	case *wire.ClientFrame_DeclineLinking:
		return l.declineLinking(body.DeclineLinking)
	case *wire.ClientFrame_RemoveDevice:
		return l.removeDevice(body.RemoveDevice)
	case *wire.ClientFrame_DeleteAccount:
		return l.deleteAccount(body.DeleteAccount)
	}
	return nil, errMalformed // send_sealed among them: it would come from somebody
}

// parseAck reads which envelope is meant. One that names no sender is From zero.
func parseAck(a *wire.Ack) (id envelopeID, err error) {
	if n := len(a.GetSender()); n != 16 && n != 0 || len(a.GetEnvelopeId()) != 16 {
		return id, errMalformed
	}
	copy(id.from[:], a.Sender)
	return envelopeID{id.from, [16]byte(a.EnvelopeId)}, nil
}

func (l *link) upload(k *wire.PreKeys) (*wire.ServerFrame, error) {
	s := l.server
	if wait := s.uploads.take(l.device.Address, s.now()); wait > 0 {
		return nil, rateLimited(wait)
	}
	keys, err := parsePreKeys(k, l.device.IdentityKey, false)
	if err != nil {
		return nil, err
	}
	counts, err := s.store.AddKeys(l.device.Address, keys, oneTimeLimit)
	if err != nil {
		return nil, err
	}
	return &wire.ServerFrame{Body: &wire.ServerFrame_KeyCounts{KeyCounts: wireCounts(counts)}}, nil
}

func wireCounts(c store.Counts) *wire.KeyCounts {
	return &wire.KeyCounts{OneTime: uint32(c.OneTime), OneTimeKyber: uint32(c.OneTimeKyber)}
}

func (l *link) fetch(f *wire.FetchBundles) (*wire.ServerFrame, error) {
	s := l.server
	if len(f.GetAccount()) != 16 || f.GetDevice() > 127 || len(f.GetDeliveryToken()) > 0 { // a token is for who is not known
		return nil, errMalformed
	}
	own, target := l.device.Address.Account, store.UUID(f.Account)
	if wait := s.bundleFetches.take(own, s.now()); wait > 0 {
		return nil, rateLimited(wait)
	}
	// Each fetch uses up keys of the target: nobody may drain them.
	return s.bundles(target, f.Device, func() time.Duration { return s.pairFetches.take([2]store.UUID{own, target}, s.now()) })
}

// bundles takes keys of one device, or of all for 0, if there is any and take says that they may be used up.
func (s *Server) bundles(target store.UUID, device uint32, take func() (wait time.Duration)) (*wire.ServerFrame, error) {
	devices, err := s.store.Devices(target)
	if err != nil {
		return nil, err
	}
	var addresses []store.Address
	for _, d := range devices {
		if device == 0 || uint32(d.Address.Device) == device {
			addresses = append(addresses, d.Address)
		}
	}
	if len(addresses) == 0 {
		return nil, errNotFound
	}
	if wait := take(); wait > 0 {
		return nil, rateLimited(wait)
	}
	bundles := &wire.Bundles{}
	for _, a := range addresses {
		taken, err := s.store.TakeKeys(a)
		if errors.Is(err, store.ErrNotFound) && len(addresses) > 1 {
			continue // removed meanwhile
		}
		if err != nil {
			return nil, err
		}
		bundle, err := bundleOf(taken)
		if err != nil {
			return nil, errors.Join(errDamaged, err)
		}
		bundles.Bundles = append(bundles.Bundles, bundle)
		if taken.LastResort {
			s.metrics.bundles.WithLabelValues("last_resort").Inc()
		} else {
			s.metrics.bundles.WithLabelValues("one_time").Inc()
		}
	}
	// Read last: it is not older than the bundles.
	if bundles.DeviceList, err = s.deviceList(target); err != nil {
		return nil, err
	}
	return &wire.ServerFrame{Body: &wire.ServerFrame_Bundles{Bundles: bundles}}, nil
}

var errDamaged = errors.New("a stored pre-key is damaged")

// lookUp finds an account by its user name. What is no user name and what is nobody's gets the same answer, at the same price.
func (l *link) lookUp(q *wire.LookUp) (*wire.ServerFrame, error) {
	s := l.server
	if wait := s.lookUps.take(l.device.Address.Account, s.now()); wait > 0 {
		return nil, rateLimited(wait)
	}
	if !ValidUsername(q.GetUsername()) {
		return nil, errNotFound
	}
	account, err := s.store.AccountByName(q.GetUsername())
	if err != nil {
		return nil, err
	}
	return &wire.ServerFrame{Body: &wire.ServerFrame_Account{Account: &wire.Account{Account: account.ID[:], Username: account.Username}}}, nil
}

func (l *link) setDeliveryToken(m *wire.SetDeliveryToken) (*wire.ServerFrame, error) {
	s := l.server
	account := l.device.Address.Account
	if len(m.GetHash()) != 32 {
		return nil, errMalformed
	}
	if wait := s.tokens.take(account, s.now()); wait > 0 {
		return nil, rateLimited(wait)
	}
	return done(s.store.SetDeliveryToken(account, [32]byte(m.Hash)))
}

// deleteAccount erases the device's own account. Its link ends behind the answer.
func (l *link) deleteAccount(m *wire.DeleteAccount) (*wire.ServerFrame, error) {
	s := l.server
	if l.device.Address.Device != 1 {
		return nil, errFirstDeletes
	}
	account := store.Account{ID: l.device.Address.Account, Username: m.GetUsername()}
	err := s.deleteAccount(account)
	if errors.Is(err, store.ErrNotFound) {
		return nil, errOtherName
	}
	return done(err)
}

var (
	errFirstDeletes = forbidden("Only the account's first device deletes the account.")
	errOtherName    = badRequest("The account has another user name.")
)

func done(err error) (*wire.ServerFrame, error) {
	if err != nil {
		return nil, err
	}
	return &wire.ServerFrame{Body: &wire.ServerFrame_Done{Done: &wire.Done{}}}, nil
}

func (l *link) senderCertificate() (*wire.ServerFrame, error) {
	s := l.server
	if wait := s.certificates.take(l.device.Address.Account, s.now()); wait > 0 {
		return nil, rateLimited(wait)
	}
	certificate, err := s.issuer.certificate(l.device, s.now())
	if err != nil {
		return nil, err
	}
	return &wire.ServerFrame{Body: &wire.ServerFrame_SenderCertificate{SenderCertificate: certificate}}, nil
}
