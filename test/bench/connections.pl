# Both ends of the connection rate measurement, each run in a namespace. Not in Node, whose own cost for a connection
# is several times the kernel's and would hide it.
#   connections.pl accept PORT
#   connections.pl connect ADDRESS PORT COUNT     prints connections per second
use strict;
use warnings;
use Socket;
use Time::HiRes 'time';

my ($mode, @args) = @ARGV;
$mode eq 'accept' ? take(@args) : measure(@args);

sub take {
    my ($port) = @_;
    socket(my $listener, PF_INET, SOCK_STREAM, 0) or die "socket: $!\n";
    setsockopt($listener, SOL_SOCKET, SO_REUSEADDR, 1);
    bind($listener, sockaddr_in($port, INADDR_ANY)) or die "bind $port: $!\n";
    listen($listener, 1024) or die "listen: $!\n";
    while (accept(my $connection, $listener)) { close $connection }
}

sub measure {
    my ($address, $port, $count) = @_;
    my $to = sockaddr_in($port, inet_aton($address));
    my $start = time;
    for (1 .. $count) {
        socket(my $connection, PF_INET, SOCK_STREAM, 0) or die "socket: $!\n";
        # Ended by a reset: neither end then keeps the pair of ports for a minute.
        setsockopt($connection, SOL_SOCKET, SO_LINGER, pack('ii', 1, 0));
        connect($connection, $to) or die "connect $address:$port: $!\n";
        close $connection;
    }
    printf "%.1f\n", $count / (time - $start);
}
