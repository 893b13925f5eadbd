package client

// A Client is one account on this device.
type Client struct{}

// A Call is one call, going out or coming in.
type Call struct{}
