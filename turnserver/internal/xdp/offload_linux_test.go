package xdp

import "testing"

func TestLoad(t *testing.T) {
	o, err := Load(Config{Flows: 16, Accounts: 16, ByteTime: 0, LongestDatagram: 1600})
	if err != nil {
		t.Fatalf("%+v", err)
	}
	o.Close()
}
