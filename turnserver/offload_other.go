//go:build !linux

package turnserver

import "errors"

type offload struct{}

func (s *Server) startOffload() (*offload, error) {
	return nil, errors.New("this system has no XDP; Linux has")
}

func (o *offload) open(*relay)             {}
func (o *offload) permit(*relay, *channel) {}
func (o *offload) drop(*channel)           {}
func (o *offload) release(*relay)          {}
func (o *offload) again()                  {}
func (o *offload) count()                  {}
func (o *offload) describe() string        { return "" }
